//! What is done while a call fails.

/// What the client asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Action {
    Deploy,
    Rollback,
    /// A deployment whose installation waits is cancelled.
    Cancel,
    Drop,
}

/// Whose calls fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Side {
    /// There is one server.
    Alone,
    /// The one that the client talks to, of two.
    Origin,
    /// The other one.
    Peer,
}

/// Why it would fail without any injection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bad {
    No,
    Install,
    /// The new processes exit; of two servers, at the peer.
    Health,
}

/// How what is deployed comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comes {
    /// As an archive that is sent.
    Whole,
    /// As a delta to what is live.
    Delta,
    /// As a delta to what has a spare, which becomes the release; another spare is made afterwards.
    Spare,
    /// From a web server.
    Fetched,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) action: Action,
    pub(super) side: Side,
    pub(super) bad: Bad,
    /// Nothing is live before.
    pub(super) first: bool,
    /// It has processes, which are restarted.
    pub(super) restart: bool,
    /// It runs something once before it goes live.
    pub(super) release: bool,
    pub(super) comes: Comes,
    /// The client asks for events.
    pub(super) live: bool,
    /// As little as possible is kept.
    pub(super) prune: bool,
}

const NEXT: Scene = Scene {
    name: "next",
    action: Action::Deploy,
    side: Side::Alone,
    bad: Bad::No,
    first: false,
    restart: false,
    release: false,
    comes: Comes::Whole,
    live: true,
    prune: false,
};

pub(super) const SCENES: [Scene; 25] = [
    Scene {
        name: "first",
        first: true,
        live: false,
        ..NEXT
    },
    Scene {
        name: "first-restart",
        first: true,
        restart: true,
        ..NEXT
    },
    NEXT,
    Scene {
        name: "next-plain",
        live: false,
        ..NEXT
    },
    Scene {
        name: "restart",
        restart: true,
        ..NEXT
    },
    Scene {
        name: "rollback",
        action: Action::Rollback,
        live: false,
        ..NEXT
    },
    Scene {
        name: "rollback-restart",
        action: Action::Rollback,
        restart: true,
        ..NEXT
    },
    Scene {
        name: "cancel",
        action: Action::Cancel,
        ..NEXT
    },
    Scene {
        name: "drop",
        action: Action::Drop,
        restart: true,
        live: false,
        ..NEXT
    },
    Scene {
        name: "prune",
        prune: true,
        ..NEXT
    },
    Scene {
        name: "delta",
        comes: Comes::Delta,
        ..NEXT
    },
    Scene {
        name: "spare",
        comes: Comes::Spare,
        live: false,
        ..NEXT
    },
    Scene {
        name: "origin-delta",
        comes: Comes::Delta,
        side: Side::Origin,
        ..NEXT
    },
    Scene {
        name: "peer-delta",
        comes: Comes::Delta,
        side: Side::Peer,
        ..NEXT
    },
    Scene {
        name: "package",
        comes: Comes::Fetched,
        ..NEXT
    },
    Scene {
        name: "release",
        release: true,
        ..NEXT
    },
    Scene {
        name: "broken",
        bad: Bad::Install,
        ..NEXT
    },
    Scene {
        name: "unhealthy",
        bad: Bad::Health,
        restart: true,
        ..NEXT
    },
    Scene {
        name: "origin-first",
        side: Side::Origin,
        first: true,
        ..NEXT
    },
    Scene {
        name: "origin",
        side: Side::Origin,
        ..NEXT
    },
    Scene {
        name: "peer",
        side: Side::Peer,
        ..NEXT
    },
    Scene {
        name: "origin-restart",
        side: Side::Origin,
        restart: true,
        live: false,
        ..NEXT
    },
    Scene {
        name: "peer-restart",
        side: Side::Peer,
        restart: true,
        ..NEXT
    },
    Scene {
        name: "origin-unhealthy",
        side: Side::Origin,
        restart: true,
        bad: Bad::Health,
        ..NEXT
    },
    Scene {
        name: "peer-unhealthy",
        side: Side::Peer,
        restart: true,
        bad: Bad::Health,
        ..NEXT
    },
];

/// Each class of calls with the errors that it can have. What ends with `+` fails from the n-th on until the answer is there:
/// a full disk, and no descriptor left.
pub(super) const CALLS: [(&str, &[&str]); 27] = [
    ("open", &["EMFILE", "EACCES", "EIO", "ENOSPC", "ENOMEM"]),
    ("write", &["ENOSPC", "EIO"]),
    ("read", &["EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("syncfs", &["EIO", "ENOSPC"]),
    ("rename", &["ENOSPC", "EIO", "EACCES"]),
    ("unlink", &["EIO", "EACCES"]),
    ("mkdir", &["ENOSPC", "EACCES", "EIO"]),
    ("symlink", &["ENOSPC", "EIO"]),
    ("link", &["ENOSPC", "EIO"]),
    ("statfs", &["EIO", "ENOMEM"]),
    ("chmod", &["EIO", "EACCES"]),
    ("truncate", &["EIO"]),
    ("utime", &["EIO"]),
    ("readlink", &["EIO", "ENOMEM"]),
    ("stat", &["EIO", "EACCES"]),
    ("getdents", &["EIO"]),
    ("send", &["EIO", "ENOMEM"]),
    ("recv", &["EIO", "ENOMEM"]),
    ("connect", &["ECONNREFUSED", "EAGAIN"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("pidfd", &["EMFILE", "ENOMEM"]),
    ("pipe", &["EMFILE"]),
    ("socket", &["EMFILE"]),
    ("dup", &["EMFILE"]),
    ("disk+", &["ENOSPC"]),
    ("fds+", &["EMFILE"]),
];
