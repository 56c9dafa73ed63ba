"""A problem in HumanEval's form, for tests."""

PROBLEM = {
    "task_id": "HumanEval/1000",
    "prompt": (
        "from typing import List\n\n\n"
        "def helper(x):\n"
        '    """ Helper. """\n'
        "    return x\n\n"
        "def below_zero(operations: List[int]) -> bool:\n"
        '    """ You are given deposits and withdrawals on a bank account that starts\n'
        "    at zero. Tell whether the balance ever falls below zero.\n"
        "    >>> below_zero([1, 2, 3])\n"
        "    False\n"
        '    """\n'
    ),
    "entry_point": "below_zero",
    "canonical_solution": (
        "    balance = 0\n\n    for op in operations:\n        balance += op\n"
        "        if balance < 0:\n            return True\n\n    return False\n"
    ),
}

DESCRIPTION = (
    "You are given deposits and withdrawals on a bank account that starts\n"
    "    at zero. Tell whether the balance ever falls below zero."
)
SOLUTION = PROBLEM["canonical_solution"].strip()
