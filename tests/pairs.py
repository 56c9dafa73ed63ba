"""Pairs of correct and incorrect code, for tests."""

HEAD = "def add(a: int, b: int) -> int:\n"
PROMPT = f'\n{HEAD}    """ Return the sum of the two numbers that are given. """\n'
PAIR = {
    "task_id": "T/0",
    "prompt": PROMPT,
    "correct": f"{HEAD}    return a + b\n",
    "incorrect": f"{HEAD}    return a - b\n",
}
PAIRS = [
    PAIR,
    # Code that is only inserted, and only deleted: one side has no marked token of its own.
    PAIR | {"task_id": "T/1", "incorrect": f"{HEAD}    a = b\n    return a + b\n"},
    PAIR | {"task_id": "T/2", "correct": f"{HEAD}    b = int(b)\n    return a + b\n"},
    PAIR | {"task_id": "T/3", "incorrect": f"{HEAD}    return a + b + 1\n    # done\n"},
    {
        "task_id": "T/4",
        "prompt": "Write a program that prints ÄÖ.",
        "correct": "print('ÄÖ')\n",
        "incorrect": "for x in 'ÄÖ':\n    print(x)\n",
    },
]
HUMANEVALPACK = {
    "task_id": "Python/0",
    "prompt": PROMPT,
    "declaration": HEAD,
    "canonical_solution": "    return a + b\n",
    "buggy_solution": "    return a - b\n",
    "entry_point": "add",
}
