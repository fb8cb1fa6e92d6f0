//! Lines after a restore: the entries of the archive applied again, `Resume` on each line before
//! anything else is signed there, and what the two ends then send each other. The rules are in
//! `pumasi_protocol::line`.

use std::collections::BTreeSet;

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::envelope::{Body, WANTS_MAX, Wanted};
use pumasi_protocol::line::{
    Adopted, Entry, Line, MAX_ADOPTED, Operation, Refusal, Span, chain_id,
};
use pumasi_protocol::types::{AccountId, Hash, LineId};
use rusqlite::params;

use super::rebuilding::Model;
use super::{Engine, blob};
use crate::error::Result;

/// Entries sent on one request at most; the next `Resume` or answer brings the rest.
const SPAN_MAX: u64 = 2_048;

impl Engine {
    /// Applies what the archive has of all lines, and signs `Resume` on each. Returns how many there
    /// are.
    pub(super) fn rebuild_lines(
        &mut self,
        account: AccountId,
        model: &mut Model,
        complete: bool,
    ) -> Result<usize> {
        let mut lines = BTreeSet::new();
        let mut calls = Vec::new();
        let mut entries: Vec<_> = std::mem::take(&mut model.entries).into_iter().collect();
        entries.sort_by_key(|(_, found)| (found.epoch, found.entry.sequence));
        for (hash, found) in &entries {
            let (signed, entry) = (&found.signed, &found.entry);
            let contact = if entry.author == account {
                entry.counterparty
            } else {
                entry.author
            };
            if self.contact(account, contact)?.is_none() {
                continue;
            }
            let device = self.device_of(account, entry.author, entry.certificate)?;
            let genuine = device.is_some_and(|(_, device)| signed.open(&device.0).is_ok());
            if !genuine || entry.check().is_err() {
                model.miss("an entry of a line in the archive is not signed by its author".into());
                continue;
            }
            if self
                .line_with(account, contact, entry.unit.clone())
                .is_err()
            {
                continue;
            }
            lines.insert(entry.line);
            self.step.quiet = Some(found.place);
            self.try_entry(account, entry, signed, *hash, None)?;
            if let (Some(call), Operation::Iou { id, .. }) = (&found.call, &entry.operation) {
                let call = self.restore_call(account, "payment", call, &id.0)?;
                calls.extend(call.map(|call| (*id, call)));
            }
        }
        self.step.quiet = Some((0, 0));
        for line in &lines {
            self.try_waiting(account, *line)?;
        }
        for (payment, call) in calls {
            self.db
                .prepare_cached(
                    "UPDATE messages SET call = ?3
                     WHERE account = ?1 AND payment = ?2 AND outgoing = 1",
                )?
                .execute(params![account.0, payment.0, call])?;
        }
        self.step.quiet = None;
        let certificate = self.own(&account)?.certificate();
        for id in &lines {
            self.known_line(account, *id)?
                .mark_restored(certificate, !complete);
            self.step.dirty_lines.insert((account, *id));
        }
        Ok(lines.len())
    }

    /// Signs `Resume` on all lines of a restored account, and sends its own earlier entries again that
    /// the other side has not been seen to know.
    pub(super) fn resume_lines(&mut self, account: AccountId) -> Result<()> {
        let lines: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT line FROM lines WHERE account = ?1")?
            .query_map(params![account.0], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        let fresh = self.lines.keys().filter(|(own, _)| *own == account);
        let mut ids: BTreeSet<LineId> = fresh.map(|(_, id)| *id).collect();
        ids.extend(lines.into_iter().map(LineId));
        for id in ids {
            self.send_unseen(account, id)?;
            self.resume(account, id)?;
        }
        Ok(())
    }

    /// Whether an earlier device wrote the archive of an own account.
    pub(super) fn was_restored(&self, account: &AccountId) -> Result<bool> {
        let now = self.own(account)?.certificate();
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM volumes WHERE mailbox = ?1 AND certificate <> ?2")?
            .exists(params![account.0, now.0])?)
    }

    /// A line as it will be after the `Resume` that is due on it, if one is: what is asked of it can be
    /// refused before anything is signed.
    pub(super) fn resumed(&mut self, account: AccountId, id: LineId) -> Result<Line> {
        let stamp = self.stamp(&account)?;
        let mut line = self.known_line(account, id)?.clone();
        if !line.was_restored() {
            return Ok(line);
        }
        if let Ok(entry) = line.propose_resume(stamp) {
            // Never stored: any hash will do.
            let hash = Hash([1; 32]);
            let known = self.lookup(account, &entry, hash)?;
            if let Ok(received) = line.receive(&entry, hash, &known) {
                line.apply(received);
            }
        }
        Ok(line)
    }

    /// Signs a `Resume` if one is due: before anything else on a line of a restored account, and
    /// whenever more became known of its earlier devices.
    pub(super) fn resume(&mut self, account: AccountId, id: LineId) -> Result<()> {
        if !self.known_line(account, id)?.was_restored() {
            return Ok(());
        }
        let stamp = self.stamp(&account)?;
        match self.known_line(account, id)?.propose_resume(stamp) {
            Ok(entry) => self.sign_entry(account, &entry),
            Err(Refusal::NothingToResume) => Ok(()),
            Err(refusal) => {
                tracing::warn!(%refusal, "a line cannot be resumed");
                Ok(())
            }
        }
    }

    /// Own entries of earlier devices that no entry of the other side has seen: they go out as they
    /// were signed.
    fn send_unseen(&mut self, account: AccountId, id: LineId) -> Result<()> {
        let line = self.known_line(account, id)?;
        let (other, ends) = (line.other(), line.holds(account));
        let theirs: Vec<Vec<u8>> = self
            .db
            .prepare("SELECT bytes FROM entries WHERE account = ?1 AND line = ?2 ORDER BY id DESC")?
            .query_map(params![account.0, id.0], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let seen: Vec<_> = theirs
            .iter()
            .filter_map(|bytes| codec::decode::<Signed<Entry>>(bytes).ok())
            .filter_map(|signed| signed.unverified().ok())
            .filter(|entry| entry.author == other)
            .filter_map(|entry| entry.seen)
            .collect();
        for end in ends {
            let chain = chain_id(id, account, end.certificate);
            let known = seen.iter().filter(|seen| seen.chain == chain);
            let last = known.map(|seen| seen.sequence).max().unwrap_or(0);
            if last < end.sequence {
                let span = Span {
                    author: account,
                    certificate: end.certificate,
                    chain,
                    from: last.saturating_add(1),
                    to: end.sequence,
                };
                self.send_span(account, other, &span)?;
            }
        }
        Ok(())
    }

    /// Sends stored entries of one chain to the other side.
    fn send_span(&mut self, account: AccountId, contact: AccountId, span: &Span) -> Result<()> {
        let last = span.to.min(span.from.saturating_add(SPAN_MAX));
        let from = i64::try_from(span.from).unwrap_or(i64::MAX);
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        let rows: Vec<Vec<u8>> = self
            .db
            .prepare_cached(
                "SELECT bytes FROM entries
                 WHERE account = ?1 AND chain = ?2 AND sequence BETWEEN ?3 AND ?4
                 ORDER BY sequence",
            )?
            .query_map(params![account.0, span.chain.0, from, last], |row| {
                row.get(0)
            })?
            .collect::<rusqlite::Result<_>>()?;
        for bytes in rows {
            if let Ok(signed) = codec::decode::<Signed<Entry>>(&bytes) {
                self.send_entry(account, contact, &signed)?;
            }
        }
        Ok(())
    }

    /// Answers every `Resume` of a contact that was applied in this step, once: with what it lacks, and
    /// with what of it is known here.
    pub(super) fn answer_resumes(&mut self) -> Result<()> {
        for (account, contact, entry) in std::mem::take(&mut self.step.resumed) {
            let spans = self.known_line(account, entry.line)?.after_resume(&entry);
            for span in spans {
                self.send_span(account, contact, &span)?;
            }
            self.say_line_view(account, contact, entry.line)?;
        }
        Ok(())
    }

    /// Tells the other side how far its chains are known here, and what is missing of them.
    fn say_line_view(&mut self, account: AccountId, contact: AccountId, id: LineId) -> Result<()> {
        let line = self.known_line(account, id)?;
        let mut yours = line.holds(contact);
        yours.truncate(MAX_ADOPTED);
        let wants = line.wants().into_iter().take(WANTS_MAX);
        let wants = wants
            .map(|span| Wanted {
                certificate: span.certificate,
                from: span.from,
                to: span.to,
            })
            .collect();
        let body = Body::LineView {
            line: id,
            yours,
            wants,
        };
        self.send_content(account, contact, body)
    }

    /// The other side answered a `Resume`.
    pub(super) fn line_answer(
        &mut self,
        account: AccountId,
        contact: AccountId,
        id: LineId,
        yours: &[Adopted],
        wants: &[Wanted],
    ) -> Result<()> {
        let Ok(line) = self.known_line(account, id) else {
            return Ok(());
        };
        if line.other() != contact {
            return Ok(());
        }
        let before = line.is_waiting();
        line.answered(yours.get(..MAX_ADOPTED).unwrap_or(yours));
        let waits = line.is_waiting();
        self.step.dirty_lines.insert((account, id));
        for wanted in wants.iter().take(WANTS_MAX) {
            let span = Span {
                author: account,
                certificate: wanted.certificate,
                chain: chain_id(id, account, wanted.certificate),
                from: wanted.from,
                to: wanted.to,
            };
            self.send_span(account, contact, &span)?;
        }
        // What was to be declined waited for this.
        self.step.answers.insert((account, id));
        if before && !waits {
            let view = self.line_view(&account, id)?;
            self.event(Some(account), "credit.changed", &view)?;
        }
        Ok(())
    }
}
