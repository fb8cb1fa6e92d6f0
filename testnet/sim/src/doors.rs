//! Where the simulator looks into the engine and reaches through to its disk: texts that the build
//! script writes into its own copy of the sources. Not faults: those are in `planted`.

/// One door.
pub(crate) struct Door {
    /// The source, from the root of the repository.
    pub(crate) file: &'static str,
    /// The text that is replaced, found exactly once; empty: the door is added at the end.
    pub(crate) at: &'static str,
    /// What stands there instead.
    pub(crate) text: &'static str,
}

/// All of them.
pub(crate) const DOORS: &[Door] = &[
    // A crash before the commit: the open transaction is gone, nothing was given out.
    Door {
        file: "node/src/engine.rs",
        at: r#"self.db.prepare_cached("COMMIT")?.execute([])?;"#,
        text: "crate::disk::commit(&self.db)?;",
    },
    Door {
        file: "node/src/engine.rs",
        at: "",
        text: "
impl Engine {
    /// The connection, for reads through `crate::read`.
    pub(crate) fn disk(&self) -> &Connection { &self.db }
    /// What a dead process leaves behind.
    pub(crate) fn into_disk(self) -> Connection {
        if !self.db.is_autocommit() { let _ = self.db.execute_batch(\"ROLLBACK\"); }
        self.db
    }
    /// Mailboxes whose running digests and sums are not those of their rows.
    pub(crate) fn miscounted(&self) -> Vec<AccountId> {
        let kept = self.kept.iter().map(|(id, kept)| (id, &kept.sets));
        kept.chain(self.due.own_sets.iter().filter(|(id, _)| !self.kept.contains_key(*id)))
            .filter(|(id, sets)| self.load_sets(id).ok().as_ref() != Some(*sets))
            .map(|(id, _)| *id)
            .collect()
    }
    /// What is held of a mailbox, from its rows: digests of statements and pages, and the envelopes that
    /// wait under permissions that stand.
    pub(crate) fn holdings(&self, mailbox: &AccountId) -> Option<([pumasi_protocol::types::Hash; 2], Vec<[u8; 32]>)> {
        let [statements, _, pages] = self.load_sets(mailbox).ok()?.hashes();
        let envelopes = self.db.prepare_cached(
            \"SELECT e.envelope FROM envelopes e
             JOIN capabilities c ON c.mailbox = e.mailbox AND c.capability = e.capability
             WHERE e.mailbox = ?1 AND e.hidden IS NULL AND c.revoked = 0 ORDER BY e.envelope\",
        ).ok()?.query_map([mailbox.0], |row| row.get(0)).ok()?.collect::<rusqlite::Result<_>>().ok()?;
        Some(([statements, pages], envelopes))
    }
    /// Own accounts.
    pub(crate) fn own_accounts(&self) -> impl Iterator<Item = (&AccountId, &Own)> { self.accounts.iter() }
    /// Whether an account may sign, in a word.
    pub(crate) fn level_word(&self, account: &AccountId) -> &'static str {
        self.accounts.get(account).map_or(\"absent\", |own| own.level.word())
    }
    /// How a node stands with another, in words.
    pub(crate) fn about(&self, node: &NodeId) -> String {
        self.peers.get(node).map_or_else(|| \"unknown\".into(), |peer| format!(
            \"connected {}, wanted {}, dialing {}, next try {}, inflight {}, backlog {}, cursor {}\",
            peer.connected, peer.wanted, peer.dialing, peer.next_try.0.saturating_sub(self.now.0),
            peer.inflight.len(), peer.backlog, peer.cursor
        ))
    }
    /// Sizes of what grows in memory: name, now, bound.
    pub(crate) fn sizes(&self) -> Vec<(&'static str, usize, usize)> {
        let inflight = self.peers.values().map(|peer| peer.inflight.len()).max().unwrap_or(0);
        let noting = self.peers.values().map(|peer| peer.noting.len()).max().unwrap_or(0);
        vec![
            (\"envelopes under way to one node\", inflight, outgoing::WINDOW),
            (\"statements under way to one node\", noting, 4_096),
            (\"questions asked\", self.asked.len(), 10_000),
            (\"receipts passed on\", self.relays.len(), 10_000),
            (\"caches\", self.contacts.len() + self.lines.len() + self.kept.len() + self.volumes.len(), CACHE_MAX),
        ]
    }
}
",
    },
    // Which envelope carries which sending.
    Door {
        file: "node/src/engine/outgoing.rs",
        at: "        for node in targets {
            let outbox = self.queue_for(node, OUTBOX_ENVELOPE, id)?;",
        text: "        crate::disk::sealed(id, envelope);
        for node in targets {
            let outbox = self.queue_for(node, OUTBOX_ENVELOPE, id)?;",
    },
    // Cheap signatures and key agreement, where the seed says so.
    Door {
        file: "protocol/src/crypto.rs",
        at: "self.0.verifying_key().to_bytes()",
        text: "if crate::cheap::on() { return crate::cheap::public(&self.0.to_bytes()); }
        self.0.verifying_key().to_bytes()",
    },
    Door {
        file: "protocol/src/crypto.rs",
        at: "    pub fn sign(&self, context: &str, bytes: &[u8]) -> Signature {",
        text: "    pub fn sign(&self, context: &str, bytes: &[u8]) -> Signature {
        if crate::cheap::on() { return Signature(crate::cheap::sign(&self.public(), context, bytes)); }",
    },
    Door {
        file: "protocol/src/crypto.rs",
        at: "    let key = VerifyingKey::from_bytes(public).map_err(|_| BadSignature)?;",
        text: "    if crate::cheap::on() {
        let right = crate::cheap::sign(public, context, bytes) == signature.0;
        return if right { Ok(()) } else { Err(BadSignature) };
    }
    let key = VerifyingKey::from_bytes(public).map_err(|_| BadSignature)?;",
    },
    Door {
        file: "protocol/src/seal.rs",
        at: "    XWing::sk_to_pk(&private_key(seed)).to_bytes().to_vec()",
        text: "    if crate::cheap::on() {
        return crate::cheap::seal_public(&seed.0, crate::record::SEAL_PUBLIC_KEY_LENGTH);
    }
    XWing::sk_to_pk(&private_key(seed)).to_bytes().to_vec()",
    },
    Door {
        file: "protocol/src/seal.rs",
        at: "    let public = <XWing as Kem>::PublicKey::from_bytes(public).map_err(|_| SealError::PublicKey)?;",
        text: "    if crate::cheap::on() {
        let encapsulated = crate::cheap::encapsulated(random, ENCAPSULATED_LENGTH);
        let key = crate::cheap::agreed(public, &encapsulated, &info(for_key, mailbox));
        let sender = crate::cheap::sender(&key, &sender.0);
        let encapsulation = Encapsulation {
            suite: SUITE,
            mailbox: *mailbox,
            for_key,
            encapsulated: encapsulated.into(),
            sender: sender.into(),
        };
        return Ok((encapsulation, Secret(key)));
    }
    let public = <XWing as Kem>::PublicKey::from_bytes(public).map_err(|_| SealError::PublicKey)?;",
    },
    Door {
        file: "protocol/src/seal.rs",
        at: "    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(&encapsulation.encapsulated)",
        text: "    if crate::cheap::on() {
        let public = public_key(seed);
        let info = info(encapsulation.for_key, &encapsulation.mailbox);
        let key = crate::cheap::agreed(&public, &encapsulation.encapsulated, &info);
        let sender: [u8; 32] = encapsulation.sender[..32].try_into().map_err(|_| CannotOpen)?;
        if crate::cheap::sender(&key, &sender) != *encapsulation.sender {
            return Err(CannotOpen.into());
        }
        return Ok((AccountId(sender), Secret(key)));
    }
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(&encapsulation.encapsulated)",
    },
    Door {
        file: "node/src/store.rs",
        at: "",
        text: "
/// A database in memory, with the schema brought up to date.
pub(crate) fn open_in_memory() -> Result<Connection> {
    let db = Connection::open_in_memory()?;
    settings(&db)?;
    migrate(&db, Path::new(\"memory\"))?;
    Ok(db)
}

/// A copy of a database in memory as it is committed now.
pub(crate) fn copy_in_memory(db: &Connection, uri: &str) -> Result<Connection> {
    let copy = Connection::open(uri)?;
    db.execute(\"VACUUM INTO ?1\", [uri])?;
    settings(&copy)?;
    Ok(copy)
}
",
    },
    Door {
        file: "node/src/vault.rs",
        at: "",
        text: "
impl Vault {
    /// A vault with this key, without any file.
    pub(crate) fn with_key(key: Secret) -> Self { Self { key } }
}
",
    },
];
