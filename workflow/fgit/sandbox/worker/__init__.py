"""The process that runs untrusted solutions, inside a box; it imports nothing of FGit.

:class:`fgit.sandbox.box.Box` copies this folder and runs its ``__main__`` with the argument KIND
(humaneval, mbpp, bigcodebench or tests), by Python >= 3.10 with numpy and the kind's library. The
modules import each other relatively, since the folder has another name in the box. The worker
reads pickled submissions from standard input, dictionaries of

* ``problem``: the problem as :mod:`fgit.benchmarks.problems` reads it;
* ``solution``: the program;
* ``min_time_limit``, ``gt_time_limit_factor``: of :class:`fgit.config.ScoreSettings`;

and answers in lines of JSON on standard output: ``{"ready": true}`` once, then two for every
submission:

* ``{"expected": true, "limit": seconds}``: the canonical solution has run, and this is the longest
  that the checks may take by their own limits; for EvalPlus's kinds also ``base_seconds`` and
  ``plus_seconds``, what the canonical solution took;
* ``{"base": status, "plus": status or null, "seconds": what the checks took, "limit": as above}``,
  where a status is ``pass``, ``fail``, ``timeout`` or ``forged``; with ``suspicious``, why a
  passing program was looked at more closely, where it was.

``{"error": text}`` stands in place of the first, if the worker cannot work, and in place of either
of the others (it is then the submission's last), if the canonical solution fails. It ends at the
end of its input. When an answer has come, nothing that the solution started or wrote to the box's
temporary folders is left.

**What stands between a solution and its verdict.** The benchmarks run a solution and judge it in
one process, so that a program can set the verdict itself. Against that:

* humaneval, mbpp: a program that passes and that is not plainly harmless (``forgery``) has its
  outputs recorded by a process that knows nothing of the expected ones (``recorder``); they are
  reduced to plain data, and EvalPlus judges these. If it does not pass them the solution is
  *forged*. This finds objects that equal everything, patched builtins and libraries, and frames
  that were walked.
* bigcodebench, tests: judged in the solution's process by the nature of the tests. Functions of
  unittest, builtins and numpy that are not the same at the end make it *forged*, and ending the
  process early passes nothing; but a program that sets out to forge its verdict there still can.

Functions that EvalPlus's and BigCodeBench's own guards set to None are so here, too.
"""
