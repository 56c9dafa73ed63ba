"""The system calls that a box refuses, as a filter for the kernel (seccomp)."""

import struct

# System calls that the box refuses: (x86_64, aarch64).
REFUSED = {
    # namespaces, mounts and roots: in a namespace of its own a program may fill a tmpfs of any size
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # memory that no process's size shows, or that outlives the process
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # parts of the kernel that programs do not need and that have had holes
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
}
SOCKET = (41, 198)
# Unix, IPv4, IPv6, and netlink, which the C library asks for addresses: the box has its own.
# Others, such as vsock, which reaches a virtual machine's host, know no network namespaces.
SOCKET_FAMILIES = (1, 2, 10, 16)
CLONE = (56, 220)
CLONE3 = (435, 435)  # its flags are behind a pointer; the C library then takes clone
NEW_NAMESPACES = 0x7E020000  # the flags CLONE_NEW* of clone
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
EPERM, ENOSYS = 1, 38


def system_call_filter(machine: str) -> bytes:
    """The filter of :data:`REFUSED` as a program for seccomp(2), in classic BPF."""
    column = list(AUDIT_ARCH).index(machine)
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent = 0x7FFF0000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    program = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 1, 0, AUDIT_ARCH[machine]),
        (give, 0, 0, refuse),
        (load, 0, 0, 0),  # its number
    ]
    if machine == "x86_64":  # the x32 calls
        program += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for numbers in REFUSED.values():
        program += [(equal, 0, 1, numbers[column]), (give, 0, 0, refuse)]
    count = len(SOCKET_FAMILIES)
    program += [
        (equal, 0, count + 3, SOCKET[column]),
        (load, 0, 0, 16),  # its first argument, the lower half
        *((equal, count - i, 0, family) for i, family in enumerate(SOCKET_FAMILIES)),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
        (equal, 0, 1, CLONE3[column]),
        (give, 0, 0, absent),
        (equal, 0, 3, CLONE[column]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, NEW_NAMESPACES),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
