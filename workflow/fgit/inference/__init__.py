"""Whatever writes text: the engines behind the teacher, decoding, the journal of answers."""
