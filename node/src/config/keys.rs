//! The table of settings: the one place that knows their names, defaults and words.

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Texts,
    Flag,
    Number,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) flag: &'static str,
    pub(super) env: &'static str,
    pub(super) placeholder: &'static str,
    pub(super) kind: Kind,
    /// As in TOML.
    pub(super) default: &'static str,
    /// The first line is the help text of the flag; all are comments of the example.
    pub(super) doc: &'static [&'static str],
}

/// Every key, in the order of the example file. `data_dir` is first: others hang on it.
pub(super) const KEYS: &[Key] = &[
    Key {
        section: "node",
        name: "data_dir",
        flag: "data-dir",
        env: "PUMASI_DATA_DIR",
        placeholder: "DIR",
        kind: Kind::Text,
        default: "\"\"",
        doc: &[
            "Where everything is kept: keys, database, socket",
            "Empty: $XDG_DATA_HOME/pumasi, else ~/.local/share/pumasi.",
        ],
    },
    Key {
        section: "node",
        name: "network",
        flag: "network",
        env: "PUMASI_NODE_NETWORK",
        placeholder: "ID",
        kind: Kind::Text,
        default: "\"main\"",
        doc: &["Network id: nodes of different networks never talk"],
    },
    Key {
        section: "node",
        name: "operator",
        flag: "operator",
        env: "PUMASI_NODE_OPERATOR",
        placeholder: "NAME",
        kind: Kind::Text,
        default: "\"\"",
        doc: &[
            "Who runs this node, as shown to others",
            "Signed by the node, checked by nobody.",
        ],
    },
    Key {
        section: "node",
        name: "building",
        flag: "building",
        env: "PUMASI_NODE_BUILDING",
        placeholder: "NAME",
        kind: Kind::Text,
        default: "\"\"",
        doc: &[
            "Building this node stands in",
            "Copies in one building count as one: nodes that would burn together must say the same",
            "name. Write it so that your neighbours in it write it, too, such as \"pangyo-a\".",
        ],
    },
    Key {
        section: "node",
        name: "keep_for_contacts",
        flag: "keep-for-contacts",
        env: "PUMASI_NODE_KEEP_FOR_CONTACTS",
        placeholder: "BOOL",
        kind: Kind::Flag,
        default: "true",
        doc: &[
            "Keep mailboxes of your accounts' contacts",
            "At most 64 MiB for each.",
        ],
    },
    Key {
        section: "node",
        name: "newcomers",
        flag: "newcomers",
        env: "PUMASI_NODE_NEWCOMERS",
        placeholder: "N",
        kind: Kind::Number,
        default: "0",
        doc: &[
            "Keep mailboxes of so many newcomers (0: none)",
            "For community nodes.",
        ],
    },
    Key {
        section: "node",
        name: "replace_after",
        flag: "replace-after",
        env: "PUMASI_NODE_REPLACE_AFTER",
        placeholder: "SECONDS",
        kind: Kind::Number,
        default: "600",
        doc: &[
            "Replace a keeper of your accounts after so many seconds without a session",
            "Shorter: full redundancy returns sooner after a fire. Longer: a keeper that restarts or",
            "loses its line for a while is not copied from anew for nothing.",
        ],
    },
    Key {
        section: "node",
        name: "bootstrap",
        flag: "bootstrap",
        env: "PUMASI_NODE_BOOTSTRAP",
        placeholder: "MULTIADDR",
        kind: Kind::Texts,
        default: "[]",
        doc: &[
            "Address of a node to begin with (repeatable)",
            "With its peer id, such as \"/dns4/node.example/udp/4040/quic-v1/p2p/12D3Koo...\".",
        ],
    },
    Key {
        section: "node",
        name: "passphrase_file",
        flag: "passphrase-file",
        env: "PUMASI_NODE_PASSPHRASE_FILE",
        placeholder: "FILE",
        kind: Kind::Text,
        default: "\"\"",
        doc: &[
            "File whose first line is the passphrase of identity.key",
            "Empty: the key is in clear, or the passphrase is asked on the terminal.",
        ],
    },
    Key {
        section: "listen",
        name: "addresses",
        flag: "listen",
        env: "PUMASI_LISTEN_ADDRESSES",
        placeholder: "MULTIADDR",
        kind: Kind::Texts,
        default: "[\"/ip4/0.0.0.0/udp/4040/quic-v1\", \"/ip4/0.0.0.0/tcp/4040\"]",
        doc: &[
            "Address to listen on for other nodes (repeatable)",
            "Port 0 takes a free one.",
        ],
    },
    Key {
        section: "listen",
        name: "announce",
        flag: "announce",
        env: "PUMASI_LISTEN_ANNOUNCE",
        placeholder: "MULTIADDR",
        kind: Kind::Texts,
        default: "[]",
        doc: &[
            "Address to tell others instead of those listened on (repeatable)",
            "For a node behind a router that forwards a port.",
        ],
    },
    Key {
        section: "listen",
        name: "mdns",
        flag: "mdns",
        env: "PUMASI_LISTEN_MDNS",
        placeholder: "BOOL",
        kind: Kind::Flag,
        default: "false",
        doc: &[
            "Find nodes on the local network, and be found there",
            "Private addresses are dialled, too: for a network that you trust.",
        ],
    },
    Key {
        section: "listen",
        name: "local",
        flag: "local",
        env: "PUMASI_LISTEN_LOCAL",
        placeholder: "BOOL",
        kind: Kind::Flag,
        default: "false",
        doc: &[
            "For tests on one machine: tell private and loopback addresses",
            "Nodes behind one public address then count as apart.",
        ],
    },
    Key {
        section: "api",
        name: "socket",
        flag: "api-socket",
        env: "PUMASI_API_SOCKET",
        placeholder: "PATH|off",
        kind: Kind::Text,
        default: "\"\"",
        doc: &[
            "Unix socket of the API, or off",
            "Empty: api.sock in the data directory. Its mode 0600 is the lock: no token is asked.",
        ],
    },
    Key {
        section: "api",
        name: "listen",
        flag: "api-listen",
        env: "PUMASI_API_LISTEN",
        placeholder: "IP:PORT|off",
        kind: Kind::Text,
        default: "\"off\"",
        doc: &[
            "Loopback address of the API over TCP, or off",
            "Such as \"127.0.0.1:4041\". Asks for the token in api.token in the data directory.",
        ],
    },
    Key {
        section: "log",
        name: "level",
        flag: "log-level",
        env: "PUMASI_LOG_LEVEL",
        placeholder: "LEVEL",
        kind: Kind::Text,
        default: "\"info\"",
        doc: &[
            "How much to log: error, warn, info, debug or trace",
            "Also per part, such as \"info,pumasi_node=debug\". Texts and amounts are never logged.",
        ],
    },
    Key {
        section: "log",
        name: "format",
        flag: "log-format",
        env: "PUMASI_LOG_FORMAT",
        placeholder: "auto|text|json",
        kind: Kind::Text,
        default: "\"auto\"",
        doc: &[
            "Form of the log",
            "auto: text on a terminal and in the journal, else JSON lines.",
        ],
    },
];

impl Key {
    /// `section.name`.
    pub(super) fn id(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// What a kind of value looks like.
pub(super) const fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text in quotes",
        Kind::Texts => "a list of texts: [\"...\"]",
        Kind::Flag => "true or false",
        Kind::Number => "a whole number from 0 to 4294967295",
    }
}

/// ` (did you mean X?)`, when one of the candidates is close.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let nearest = candidates
        .map(|candidate| (distance(text, candidate), candidate))
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + text.chars().count() / 4 => {
            format!(" (did you mean {candidate}?)")
        }
        _ => ": see `pumasi config init` for all keys".to_owned(),
    }
}

/// How many single-character changes lead from one text to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in b.iter().enumerate() {
            let replace = row.get(j).copied().unwrap_or(usize::MAX) + usize::from(a != *b);
            let insert = next.last().copied().unwrap_or(usize::MAX).saturating_add(1);
            let delete = row
                .get(j + 1)
                .copied()
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            next.push(replace.min(insert).min(delete));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// The commented example: every key with its default, commented out.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# Settings of pumasi. Every key is optional and shown with its default.\n\
         # Precedence: flag, then environment variable, then this file, then default;\n\
         # `pumasi config show --origin` tells where each value comes from.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n[{section}]\n"));
        } else {
            text.push('\n');
        }
        for (index, line) in key.doc.iter().enumerate() {
            let stop = if index == 0 { "." } else { "" };
            text.push_str(&format!("# {line}{stop}\n"));
        }
        text.push_str(&format!(
            "# Flag --{}, environment {}.\n",
            key.flag, key.env
        ));
        text.push_str(&format!("#{} = {}\n", key.name, key.default));
    }
    text
}
