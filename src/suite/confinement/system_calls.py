"""The system calls that are forbidden to some process, with their numbers on two kinds of processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SECCOMP: Final = "seccomp"
X32_BIT: Final = 0x40000000
"""What the numbers of x86's second set of calls have in common."""

AUDIT_ARCHITECTURES: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""How the kernel tells programs of these processors from others: include/uapi/linux/audit.h."""

_NUMBERS: Final[Mapping[str, tuple[int, int | None]]] = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lchown": (94, None),
    "listen": (50, 201),
    "lookup_dcookie": (212, 18),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vfork": (58, None),
    "vhangup": (153, 58),
}
"""On x86_64, and on aarch64 if it exists there."""

NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    machine: {name: number for name, row in _NUMBERS.items() if (number := row[column]) is not None}
    for column, machine in enumerate(("x86_64", "aarch64"))
}

OF_OTHER_PROCESSES: Final = (
    "kcmp", "perf_event_open", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace",
)  # fmt: skip
OF_THE_KERNEL: Final = (
    "acct", "bpf", "create_module", "delete_module", "fanotify_init", "finit_module", "init_module", "ioperm",
    "iopl", "kexec_file_load", "kexec_load", "lookup_dcookie", "modify_ldt", "nfsservctl", "personality",
    "query_module", "quotactl", "quotactl_fd", "reboot", "swapoff", "swapon", "sysfs", "syslog", "uselib",
    "userfaultfd", "vhangup",
)  # fmt: skip
OF_KEYS: Final = ("add_key", "keyctl", "request_key")
OF_CLOCKS: Final = ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday")
OF_NAMESPACES: Final = (
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mknod", "mknodat", "mount", "mount_setattr",
    "move_mount", "open_by_handle_at", "open_tree", "open_tree_attr", "pivot_root", "setdomainname",
    "sethostname", "setns", "umount2", "unshare",
)  # fmt: skip
OF_ATTRIBUTES: Final = (
    "chmod", "chown", "fchmodat", "fchmodat2", "fchownat", "file_setattr", "futimesat", "lchown",
    "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr", "setxattrat", "truncate",
    "utime", "utimes",
)  # fmt: skip
"""These change any file of the user by its path: Landlock knows nothing of owners, modes and times, and
before version 3 nothing of sizes. Of `utimensat`, the form without a path stays."""
OF_ATTRIBUTES_OF_OPEN_FILES: Final = ("fchmod", "fchown", "fremovexattr", "fsetxattr")
UNSEEN: Final = ("io_uring_enter", "io_uring_register", "io_uring_setup")
"""By these, calls are made that no filter sees."""
OF_SERVERS: Final = ("accept", "accept4", "listen")
OF_NEW_PROGRAMS: Final = ("execve", "execveat")
