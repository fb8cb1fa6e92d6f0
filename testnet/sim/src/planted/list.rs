//! The list of planted bugs: what is written into the simulator's copy of the sources, behind a switch
//! that is off. The build fails when an original text is not found exactly once.

/// One planted bug.
#[derive(Debug)]
pub(crate) struct Planted {
    /// Its name, for `--bug`.
    pub(crate) name: &'static str,
    /// What it breaks, in a sentence.
    #[allow(dead_code, reason = "the build script does not show it")]
    pub(crate) breaks: &'static str,
    /// The source, from the root of the repository.
    #[allow(dead_code, reason = "only the build script reads it")]
    pub(crate) file: &'static str,
    /// The text as it is, found exactly once in that file.
    #[allow(dead_code, reason = "only the build script reads it")]
    pub(crate) original: &'static str,
    /// What is written in its place: `{on}` is the switch, `{original}` the text as it was.
    #[allow(dead_code, reason = "only the build script reads it")]
    pub(crate) buggy: &'static str,
    /// The test that it is found begins with the small world of this seed.
    #[allow(dead_code, reason = "only the tests read it")]
    pub(crate) seed: u64,
}

/// All of them.
pub(crate) const PLANTED: &[Planted] = &[
    Planted {
        name: "send-before-commit",
        breaks: "frames leave before the commit: a crash in between has said what was never stored",
        file: "node/src/engine.rs",
        original: r#"self.db.prepare_cached("COMMIT")?.execute([])?;"#,
        buggy: r#"if {on} { crate::disk::leave_early(std::mem::take(&mut self.step.effects)); }
        {original}"#,
        seed: 15,
    },
    Planted {
        name: "answer-before-commit",
        breaks: "callers are answered before the commit: what they were told may never have happened",
        file: "node/src/engine.rs",
        original: r#"self.db.prepare_cached("COMMIT")?.execute([])?;"#,
        buggy: r#"if {on} { crate::disk::leave_early(std::mem::take(&mut self.step.replies).into_iter().map(Effect::Reply).collect()); }
        {original}"#,
        seed: 15,
    },
    Planted {
        name: "outbox-not-replayed",
        breaks: "what was under way when a session ended is not handed over again",
        file: "node/src/engine/peers.rs",
        original: r#"        self.backlog = true;
        self.progress = now;
        self.retry_at = None;"#,
        buggy: r#"        self.backlog = !{on};
        self.progress = now;
        self.retry_at = None;"#,
        seed: 1,
    },
    Planted {
        name: "keepers-not-buildings",
        breaks: "two keepers in one building count as two buildings",
        file: "protocol/src/delivery.rs",
        original: r#"let slot = per_building.entry(normal(&keeper.building)).or_default();"#,
        buggy: r#"let name = if {on} { keeper.place.node.to_string() } else { normal(&keeper.building) };
            let slot = per_building.entry(name).or_default();"#,
        seed: 3,
    },
    Planted {
        name: "receipt-without-storing",
        breaks: "a keeper signs for an envelope that it refused to store",
        file: "node/src/engine/keeping.rs",
        original: r#"            return Ok(Err(NotAdmitted::MissingSeals));"#,
        buggy: r#"            if {on} { self.custody(from, mailbox, id, sealed.expires); return Ok(Ok(())); }
{original}"#,
        seed: 1,
    },
    Planted {
        name: "dedupe-forgotten",
        breaks: "a text that came before is taken as new",
        file: "node/src/engine/incoming.rs",
        original: r#"                    Place::Duplicate => return Ok(true),"#,
        buggy: r#"                    Place::Duplicate if {on} => (0, content.time),
{original}"#,
        seed: 1,
    },
    Planted {
        name: "key-ignored",
        breaks: "a repeated call with the same idempotency key is carried out again",
        file: "node/src/engine/idempotency.rs",
        original: r#"        let Some(key) = key else { return Ok(None) };
        check_key(key)?;"#,
        buggy: r#"        let Some(key) = key else { return Ok(None) };
        if {on} { return Ok(None); }
        check_key(key)?;"#,
        seed: 1,
    },
    Planted {
        name: "erased-when-handed-over",
        breaks: "a keeper deletes an envelope when it hands it over, before the recipient has signed for it",
        file: "node/src/engine/reconciling.rs",
        original: r#"        rows.sort_by_key(|(created, id, _, _)| (*created, *id));"#,
        buggy: r#"{original}
        if {on} { for (_, row, _, _) in &rows { self.db.execute("DELETE FROM envelopes WHERE id = ?1", params![row])?; } }"#,
        seed: 1,
    },
    Planted {
        name: "count-not-stored",
        breaks: "the count of a chat's texts is not stored with them: after a restart numbers are used again",
        file: "node/src/engine/contacts.rs",
        original: r#"                codec::encode(&entry.chat),"#,
        buggy: r#"                if {on} {
                    self.db
                        .query_row("SELECT chat FROM conversations WHERE account = ?1 AND contact = ?2", params![account.0, contact.0], |row| row.get::<_, Vec<u8>>(0))
                        .unwrap_or_else(|_| codec::encode(&entry.chat))
                } else { codec::encode(&entry.chat) },"#,
        seed: 1,
    },
    Planted {
        name: "pending-ignored",
        breaks: "what waits for an answer does not count against the limit",
        file: "protocol/src/line/propose.rs",
        original: r#"let held = self.mine.sum_held();"#,
        buggy: r#"let held = if {on} { 0 } else { self.mine.sum_held() };"#,
        seed: 6,
    },
    Planted {
        name: "accepted-above-limit",
        breaks: "a payee accepts past its own limit",
        file: "protocol/src/line/propose.rs",
        original: r#"        room(limit, &self.mine, &self.theirs, 0)
"#,
        buggy: r#"        if {on} { return u128::MAX; }
{original}"#,
        seed: 35,
    },
    Planted {
        name: "compare-never",
        breaks: "keepers never compare a mailbox with its owner or with each other",
        file: "node/src/engine/ticking.rs",
        original: r#"            self.compare(mailbox, node)?;"#,
        buggy: r#"            if !{on} { self.compare(mailbox, node)?; }"#,
        seed: 2,
    },
    Planted {
        name: "expired-early",
        breaks: "kept envelopes are dropped long before their date",
        file: "node/src/engine/cleaning.rs",
        original: r#".query_map(params![now, CLEAN_ROWS], |row| {"#,
        buggy: r#".query_map(params![if {on} { now + 60 * DAY } else { now }, CLEAN_ROWS], |row| {"#,
        seed: 1,
    },
    Planted {
        name: "clock-orders",
        breaks: "texts are shown in the order of their writers' clocks, whatever these had read",
        file: "protocol/src/chat.rs",
        original: r#"        self.clock = now.max(self.clock.plus(1));"#,
        buggy: r#"        self.clock = if {on} { now } else { now.max(self.clock.plus(1)) };"#,
        seed: 1,
    },
    Planted {
        name: "refused-never-again",
        breaks: "an envelope that a node could not take yet is never offered to it again",
        file: "node/src/engine/proofs.rs",
        original: r#"                _ => peer.retry_refused(self.now),"#,
        buggy: r#"                _ if {on} => {}
{original}"#,
        seed: 15,
    },
    Planted {
        name: "arrival-not-told",
        breaks: "the sender's node is never told that an envelope arrived",
        file: "node/src/engine/acknowledging.rs",
        original: r#"                    self.statement_for(home, statement)?;
                }"#,
        buggy: r#"                    if !{on} { self.statement_for(home, statement)?; }
                }"#,
        seed: 3,
    },
    Planted {
        name: "waiting-entries-forgotten",
        breaks: "entries of a line that came too early are never looked at again",
        file: "node/src/engine/money.rs",
        original: r#"            let mut moved = false;"#,
        buggy: r#"            let mut moved = false;
            let waiting = if {on} { vec![] } else { waiting };"#,
        seed: 1,
    },
    Planted {
        name: "read-one-keeper",
        breaks: "a restore is content with one keeper",
        file: "node/src/engine/level.rs",
        original: r#"    succession::is_reading(&record.record.keepers, record.record.safe_copies, read)"#,
        buggy: r#"    if {on} { return !read.is_empty() || record.record.keepers.is_empty(); }
{original}"#,
        seed: 132,
    },
    Planted {
        name: "older-copy-unnoticed",
        breaks: "a database that is an older copy goes on signing",
        file: "node/src/engine/level.rs",
        original: r#"            return self.stop_signing(account, Level::Behind);
        }
        answered"#,
        buggy: r#"            if !{on} { return self.stop_signing(account, Level::Behind); }
        }
        answered"#,
        seed: 12,
    },
    Planted {
        name: "lines-not-resumed",
        breaks: "a restored account signs on its lines without reconciling them",
        file: "node/src/engine/resuming.rs",
        original: r#"                .mark_restored(certificate, !complete);"#,
        buggy: r#"                .mark_restored(certificate, !complete);
            if {on} { let line = self.known_line(account, *id)?; *line = Line::new(account, line.other(), line.unit().clone()).map_err(|_| crate::error::Error::not_found("line"))?; }"#,
        seed: 1,
    },
    Planted {
        name: "archive-not-written",
        breaks: "texts are not written to the archive",
        file: "node/src/engine/archiving.rs",
        original: r#"        pending.draft.records.push(record);"#,
        buggy: r#"        if !({on} && matches!(record, Record::Text(_))) { pending.draft.records.push(record); }"#,
        seed: 1,
    },
    Planted {
        name: "encapsulation-not-kept",
        breaks: "a keeper stores an envelope without the keys that it names",
        file: "node/src/engine/keeping.rs",
        original: r#"            if !held {
                let given = given"#,
        buggy: r#"            if !held && !{on} {
                let given = given"#,
        seed: 1,
    },
    Planted {
        name: "reset-forgotten",
        breaks: "an envelope that cannot be opened is kept, and nobody is asked for another",
        file: "node/src/engine/incoming.rs",
        original: r#"                self.ask_reset(account, contact)?;"#,
        buggy: r#"                if !{on} { self.ask_reset(account, contact)?; }"#,
        seed: 31,
    },
    Planted {
        name: "dials-of-a-start-lost",
        breaks: "after a start nobody is called whom something is owed",
        file: "node/src/engine/peers.rs",
        original: r#"                self.peers.entry(node).or_default().wanted = true;"#,
        buggy: r#"                let peer = self.peers.entry(node).or_default();
                peer.wanted = true;
                peer.dialing = {on};"#,
        seed: 1,
    },
];
