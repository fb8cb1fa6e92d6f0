//! Lines between an own account and a contact: limits, IOUs, the automatic answers. The rules are in
//! `pumasi_protocol::line`; here they meet the store and the outbox.

use std::collections::BTreeMap;

use pumasi_protocol::archive::Record;
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{self, Signed};
use pumasi_protocol::delivery::State;
use pumasi_protocol::line::{
    DebtId, DebtRecord, DebtStatus, DeclineReason, Entry, EntryFault, EntryRecord,
    EquivocationProof, Known, Line, MAX_NAMED, Operation, Refusal, Stamp, line_id,
};
use pumasi_protocol::types::{
    AccountId, Amount, EnvelopeId, Hash, LineId, MessageId, PaymentId, Unit,
};
use rusqlite::params;

use super::idempotency::check_key;
use super::outgoing::NewMessage;
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};
use crate::read;
use crate::view::{LineView, Money, PaymentView};

/// Lines of one account at most.
const LINES_MAX: u64 = 1_024;
/// Entries kept on one line while those before them are missing.
const WAITING_MAX: u64 = 2_048;

impl Engine {
    fn unit(text: &str) -> Result<Unit> {
        text.parse()
            .map_err(|error: pumasi_protocol::types::ParseError| Error::invalid(error.to_string()))
    }

    fn amount(text: &str) -> Result<Amount> {
        text.parse()
            .map_err(|error: pumasi_protocol::types::ParseError| Error::invalid(error.to_string()))
    }

    /// A line, from memory or the store.
    fn line(&mut self, account: AccountId, line: LineId) -> Result<Option<&mut Line>> {
        if !self.lines.contains_key(&(account, line)) {
            let bytes: Option<Vec<u8>> = one(self
                .db
                .prepare_cached("SELECT state FROM lines WHERE account = ?1 AND line = ?2")?
                .query_row(params![account.0, line.0], |row| row.get(0)))?;
            let Some(bytes) = bytes else { return Ok(None) };
            let loaded = codec::decode(&bytes)
                .map_err(|_| Error::new(ErrorKind::Storage, "a stored line is damaged"))?;
            self.lines.insert((account, line), loaded);
        }
        Ok(self.lines.get_mut(&(account, line)))
    }

    /// The line with a contact in a unit; a new one where there is none yet.
    pub(super) fn line_with(
        &mut self,
        account: AccountId,
        contact: AccountId,
        unit: Unit,
    ) -> Result<LineId> {
        let id = line_id(account, contact, &unit);
        if self.line(account, id)?.is_none() {
            let count: u64 = self.db.query_row(
                "SELECT count(*) FROM lines WHERE account = ?1",
                params![account.0],
                |row| row.get(0),
            )?;
            if count >= LINES_MAX {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("an account has at most {LINES_MAX} lines"),
                ));
            }
            let mut line = Line::new(account, contact, unit).map_err(refused)?;
            if self.was_restored(&account)? {
                // An earlier device may have used it: nothing here would know.
                line.mark_restored(self.own(&account)?.certificate(), false);
            }
            self.lines.insert((account, id), line);
        }
        Ok(id)
    }

    pub(super) fn store_line(&mut self, account: AccountId, id: LineId) -> Result<()> {
        let Some(line) = self.lines.get(&(account, id)) else {
            return Ok(());
        };
        self.db
            .prepare_cached(
                "INSERT INTO lines (account, line, contact, unit, state) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (account, line) DO UPDATE SET state = ?5",
            )?
            .execute(params![
                account.0,
                id.0,
                line.other().0,
                line.unit().as_str(),
                codec::encode(line)
            ])?;
        Ok(())
    }

    pub(super) fn stamp(&self, account: &AccountId) -> Result<Stamp> {
        let own = self.own(account)?;
        Ok(Stamp {
            certificate: own.certificate(),
            epoch: own.record.certificate.epoch,
            now: self.now,
        })
    }

    /// Sets how much a contact may owe.
    pub(crate) fn set_limit(
        &mut self,
        account: &AccountId,
        who: &str,
        unit: &str,
        amount: &str,
    ) -> Result<LineView> {
        let (unit, amount) = (Self::unit(unit)?, Self::amount(amount)?);
        let contact = self.find_contact(account, who)?;
        self.check_room(account)?;
        self.may_sign(account)?;
        let stamp = self.stamp(account)?;
        let id = self.line_with(*account, contact, unit)?;
        let line = self.resumed(*account, id)?;
        // On a frozen line the same limit again is what lets it go on.
        let view = line.view();
        if view.limit_given == amount && !view.frozen && !line.heads(*account).is_empty() {
            return self.line_view(account, id);
        }
        // Freed claims may come to one limit more.
        let overhang = amount;
        line.propose_limit(stamp, amount, overhang)
            .map_err(refused)?;
        self.resume(*account, id)?;
        let line = self.known_line(*account, id)?;
        let entry = line
            .propose_limit(stamp, amount, overhang)
            .map_err(refused)?;
        self.sign_entry(*account, &entry)?;
        self.credit_changed(account, id)
    }

    /// Offers to close a line; it closes when the other side offers it too, at zero.
    pub(crate) fn close_line(
        &mut self,
        account: &AccountId,
        who: &str,
        unit: &str,
    ) -> Result<LineView> {
        let unit = Self::unit(unit)?;
        let contact = self.find_contact(account, who)?;
        self.may_sign(account)?;
        let stamp = self.stamp(account)?;
        let id = line_id(*account, contact, &unit);
        let line = self.resumed(*account, id)?;
        line.propose_close(stamp).map_err(refused)?;
        self.resume(*account, id)?;
        let entry = self
            .known_line(*account, id)?
            .propose_close(stamp)
            .map_err(refused)?;
        self.sign_entry(*account, &entry)?;
        self.credit_changed(account, id)
    }

    pub(super) fn known_line(&mut self, account: AccountId, id: LineId) -> Result<&mut Line> {
        self.line(account, id)?.ok_or_else(|| {
            Error::not_found("there is no line with that contact in that unit: open one first")
        })
    }

    fn credit_changed(&mut self, account: &AccountId, id: LineId) -> Result<LineView> {
        let view = self.line_view(account, id)?;
        self.event(Some(*account), "credit.changed", &view)?;
        Ok(view)
    }

    pub(super) fn line_view(&mut self, account: &AccountId, id: LineId) -> Result<LineView> {
        let contact = self.known_line(*account, id)?.other();
        let name = self.known_contact(*account, contact)?.name.clone();
        Ok(read::line_view(self.known_line(*account, id)?, &name))
    }

    /// Signs an IOU to a contact. The same key again gives the same payment.
    pub(crate) fn pay(
        &mut self,
        account: &AccountId,
        who: &str,
        money: &Money,
        note: &str,
        key: &str,
    ) -> Result<PaymentView> {
        check_key(key)?;
        let (unit, amount) = (Self::unit(&money.currency)?, Self::amount(&money.amount)?);
        if amount == Amount::ZERO {
            return Err(refused(Refusal::Zero));
        }
        let contact = self.find_contact(account, who)?;
        let payment = PaymentId(crypto::hash("payment", &[&account.0, key.as_bytes()]).0);
        let request: [&[u8]; 4] = [
            &contact.0,
            unit.as_str().as_bytes(),
            &amount.0.to_be_bytes(),
            note.as_bytes(),
        ];
        if self
            .answered_before(account, "payment", Some(key), &request)?
            .is_some()
        {
            return read::payment(&self.db, account, &payment.to_string());
        }
        self.check_room(account)?;
        self.may_sign(account)?;
        let stamp = self.stamp(account)?;
        let id = self.line_with(*account, contact, unit.clone())?;
        let known = self.debt(*account, id, *account, DebtId::Iou(payment))?;
        if self.known_line(*account, id)?.was_restored() {
            self.resumed(*account, id)?
                .propose_iou(stamp, payment, amount, note, known.as_ref())
                .map_err(refused)?;
            self.resume(*account, id)?;
        }
        let entry = self
            .known_line(*account, id)?
            .propose_iou(stamp, payment, amount, note, known.as_ref())
            .map_err(refused)?;
        self.step.call = Self::call_of(Some(key), &request);
        self.step.call_row =
            self.remember_answer(account, "payment", Some(key), &request, &payment.0)?;
        self.sign_entry(*account, &entry)?;
        let view = read::payment(&self.db, account, &payment.to_string())?;
        self.event(Some(*account), "payment.created", &view)?;
        Ok(view)
    }

    /// Signs, applies and sends an own entry.
    pub(super) fn sign_entry(&mut self, account: AccountId, entry: &Entry) -> Result<()> {
        let signed = Signed::sign(entry, &self.own(&account)?.device);
        let hash = signed.hash();
        let known = self.lookup(account, entry, hash)?;
        let line = self.known_line(account, entry.line)?;
        let received = line.receive(entry, hash, &known).map_err(|fault| {
            Error::new(
                ErrorKind::Internal,
                format!("an own entry does not apply: {fault}"),
            )
        })?;
        self.apply(account, entry, &signed, hash, received, None)?;
        self.send_entry(account, entry.counterparty, &signed)
    }

    /// What the rules need to know of the store for an entry.
    pub(super) fn lookup(
        &mut self,
        account: AccountId,
        entry: &Entry,
        _hash: Hash,
    ) -> Result<Known> {
        let Some(line) = self.line(account, entry.line)? else {
            return Ok(Known::default());
        };
        let needs = line.needs(entry);
        let mut known = Known {
            epoch: self.epoch_of(account, entry)?,
            ..Known::default()
        };
        for hash in needs.adopted {
            let applied: Option<bool> = one(self
                .db
                .prepare_cached(
                    "SELECT applied IS NOT NULL FROM entries WHERE account = ?1 AND hash = ?2",
                )?
                .query_row(params![account.0, hash.0], |row| row.get(0)))?;
            if applied == Some(true) {
                known.adopted.insert(hash);
            }
        }
        for (debtor, id) in needs.debts {
            if let Some(record) = self.debt(account, entry.line, debtor, id)? {
                known.debts.insert((debtor, id), record);
            }
        }
        if needs.place {
            known.here = self
                .db
                .prepare_cached(
                    "SELECT hash FROM entries WHERE account = ?1 AND chain = ?2 AND sequence = ?3
                       AND applied IS NOT NULL",
                )?
                .query_map(
                    params![account.0, entry.chain().0, number(entry.sequence)],
                    |row| blob(row, 0),
                )?
                .map(|hash| hash.map(Hash))
                .collect::<rusqlite::Result<_>>()?;
            let previous: Option<Option<Vec<u8>>> = one(self
                .db
                .prepare_cached("SELECT applied FROM entries WHERE account = ?1 AND hash = ?2")?
                .query_row(params![account.0, entry.previous.0], |row| row.get(0)))?;
            known.previous = previous
                .flatten()
                .and_then(|bytes| codec::decode(&bytes).ok());
        }
        Ok(known)
    }

    fn debt(
        &self,
        account: AccountId,
        line: LineId,
        debtor: AccountId,
        debt: DebtId,
    ) -> Result<Option<DebtRecord>> {
        let (kind, id) = debt_row(&debt);
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached(
                "SELECT record FROM debts
                 WHERE account = ?1 AND line = ?2 AND debtor = ?3 AND kind = ?4 AND debt = ?5",
            )?
            .query_row(params![account.0, line.0, debtor.0, kind, id], |row| {
                row.get(0)
            }))?;
        bytes
            .map(|bytes| {
                codec::decode(&bytes)
                    .map_err(|_| Error::new(ErrorKind::Storage, "a stored debt is damaged"))
            })
            .transpose()
    }

    /// Stores and applies what the rules decided, and says what people should hear of.
    fn apply(
        &mut self,
        account: AccountId,
        entry: &Entry,
        signed: &Signed<Entry>,
        hash: Hash,
        received: pumasi_protocol::line::Received,
        envelope: Option<EnvelopeId>,
    ) -> Result<()> {
        let id = entry.line;
        let mine = entry.author == account;
        let contact = if mine {
            entry.counterparty
        } else {
            entry.author
        };
        self.store_entry(account, entry, signed, hash, Some(&received.entry))?;
        let reason = match &entry.operation {
            Operation::Decline { reason, .. } => Some(read::decline_reason(*reason)),
            _ => None,
        };
        let mut answered: Vec<(PaymentId, DebtStatus)> = Vec::new();
        for ((debtor, debt), record) in &received.records {
            let (kind, debt_id) = debt_row(debt);
            self.db
                .prepare_cached(
                    "INSERT INTO debts (account, line, debtor, kind, debt, contact, record, reason)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                     ON CONFLICT (account, line, debtor, kind, debt) DO UPDATE SET
                       record = ?7, reason = coalesce(?8, reason)",
                )?
                .execute(params![
                    account.0,
                    id.0,
                    debtor.0,
                    kind,
                    debt_id,
                    contact.0,
                    codec::encode(record),
                    reason
                ])?;
            if let DebtId::Iou(payment) = debt {
                answered.push((*payment, record.status()));
            }
        }
        if let Some(equivocation) = received.equivocation {
            self.equivocation(account, contact, id, &equivocation)?;
        }
        if let Some(missing) = received.missing {
            tracing::warn!(line = ?id, sequence = missing.sequence, "the other side saw an own entry that is not here");
        }
        self.known_line(account, id)?.apply(received);
        self.step.dirty_lines.insert((account, id));
        let resumed = matches!(entry.operation, Operation::Resume { .. });
        if resumed && !mine && self.step.quiet.is_none() {
            self.step.resumed.push((account, contact, entry.clone()));
        }
        if let Operation::Iou { id: payment, .. } = &entry.operation {
            self.iou_message(account, contact, entry, signed, *payment, envelope)?;
        }
        let is_debt = matches!(
            entry.operation,
            Operation::Iou { .. } | Operation::Lock { .. }
        );
        if is_debt && !mine {
            self.step.answers.insert((account, id));
        }
        if matches!(
            entry.operation,
            Operation::Limit { .. } | Operation::Close { .. }
        ) && !mine
        {
            self.credit_changed(&account, id)?;
        }
        if !mine {
            self.answered_debts(account, &answered)?;
        }
        for (payment, status) in answered {
            let kind = match (&entry.operation, status) {
                (Operation::Accept { .. }, DebtStatus::Settled) => "payment.accepted",
                (Operation::Decline { .. }, DebtStatus::Declined) => "payment.declined",
                _ => continue,
            };
            if let Ok(view) = read::payment(&self.db, &account, &payment.to_string()) {
                self.event(Some(account), kind, &view)?;
            }
        }
        Ok(())
    }

    /// The other side's signed answer shows that own IOUs reached it, also where a restored device has
    /// nothing else that does.
    fn answered_debts(
        &mut self,
        account: AccountId,
        answered: &[(PaymentId, DebtStatus)],
    ) -> Result<()> {
        for (payment, status) in answered {
            if !matches!(status, DebtStatus::Settled | DebtStatus::Declined) {
                continue;
            }
            let shown: Option<i64> = one(self
                .db
                .prepare_cached(
                    "SELECT id FROM messages
                     WHERE account = ?1 AND payment = ?2 AND outgoing = 1",
                )?
                .query_row(params![account.0, payment.0], |row| row.get(0)))?;
            self.raise(shown, State::Delivered, 0, None)?;
        }
        Ok(())
    }

    fn store_entry(
        &mut self,
        account: AccountId,
        entry: &Entry,
        signed: &Signed<Entry>,
        hash: Hash,
        applied: Option<&EntryRecord>,
    ) -> Result<()> {
        let call = self.step.call.take();
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM entries WHERE account = ?1 AND hash = ?2")?
            .exists(params![account.0, hash.0])?;
        if known {
            self.db
                .prepare_cached(
                    "UPDATE entries SET applied = coalesce(?3, applied)
                     WHERE account = ?1 AND hash = ?2",
                )?
                .execute(params![account.0, hash.0, applied.map(codec::encode)])?;
            return Ok(());
        }
        let epoch = self.epoch_of(account, entry)?;
        let record = Record::Entry {
            entry: Box::new(signed.clone()),
            epoch,
            call,
        };
        let page = if entry.author == account {
            self.archive(account, record)
        } else {
            self.archive_received(account, record)
        };
        self.db
            .prepare_cached(
                "INSERT INTO entries
                   (account, line, hash, chain, sequence, bytes, epoch, volume, page, applied)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                account.0,
                entry.line.0,
                hash.0,
                entry.chain().0,
                number(entry.sequence),
                codec::encode(signed),
                epoch,
                page.0,
                page.1,
                applied.map(codec::encode)
            ])?;
        Ok(())
    }

    /// Epoch of the device that signed an entry; 0 where it is not known.
    fn epoch_of(&mut self, account: AccountId, entry: &Entry) -> Result<u64> {
        let device = self.device_of(account, entry.author, entry.certificate)?;
        Ok(device.map_or(0, |(epoch, _)| epoch))
    }

    /// An IOU as people see it, in the chat and in the list of payments.
    fn iou_message(
        &mut self,
        account: AccountId,
        contact: AccountId,
        entry: &Entry,
        signed: &Signed<Entry>,
        payment: PaymentId,
        envelope: Option<EnvelopeId>,
    ) -> Result<()> {
        let mine = entry.author == account;
        let message = MessageId(signed.hash().0);
        let bytes = codec::encode(signed);
        let time = entry.time.min(self.now.plus(pumasi_protocol::types::DAY));
        let (epoch, page) = (self.epoch_of(account, entry)?, self.page_place(&account));
        let call = self.step.call_row.take();
        self.insert_message(&NewMessage {
            account,
            contact,
            message,
            outgoing: mine,
            kind: read::IOU,
            epoch,
            page,
            sequence: 0,
            time,
            content: &bytes,
            payment: Some(payment.0),
            state: if mine { State::Saved } else { State::Delivered },
            gap: 0,
            envelope,
            call,
        })?;
        if !mine {
            let view = read::payment(&self.db, &account, &payment.to_string())?;
            self.event(Some(account), "payment.received", &view)?;
        }
        Ok(())
    }

    /// An entry came from a contact. False when it is refused for ever.
    pub(super) fn receive_entry(
        &mut self,
        account: AccountId,
        contact: AccountId,
        envelope: Option<EnvelopeId>,
        signed: Signed<Entry>,
    ) -> Result<bool> {
        let hash = signed.hash();
        let Ok(claimed) = signed.unverified() else {
            return Ok(false);
        };
        let parties = (claimed.author, claimed.counterparty);
        // One's own entries come back from the other side after a restore.
        if parties != (contact, account) && parties != (account, contact) {
            return Ok(false);
        }
        let Some((_, device)) = self.device_of(account, claimed.author, claimed.certificate)?
        else {
            tracing::info!(author = %claimed.author, "an entry by a device that is not known");
            return Ok(false);
        };
        let Ok(entry) = signed.open(&device.0) else {
            return Ok(false);
        };
        if entry.check().is_err() {
            return Ok(false);
        }
        let id = match self.line_with(account, contact, entry.unit.clone()) {
            Ok(id) if id == entry.line => id,
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Storage => return Err(error),
            Err(error) => {
                tracing::info!(%error, "an entry for a new line is refused");
                return Ok(false);
            }
        };
        if !self.try_entry(account, &entry, &signed, hash, envelope)? {
            return Ok(false);
        }
        self.try_waiting(account, id)?;
        self.answer_resumes()?;
        if entry.author == account {
            self.resume(account, id)?;
        }
        Ok(true)
    }

    /// Applies an entry if its turn has come; keeps it if not. False: dropped for ever.
    pub(super) fn try_entry(
        &mut self,
        account: AccountId,
        entry: &Entry,
        signed: &Signed<Entry>,
        hash: Hash,
        envelope: Option<EnvelopeId>,
    ) -> Result<bool> {
        let known = self.lookup(account, entry, hash)?;
        match self
            .known_line(account, entry.line)?
            .receive(entry, hash, &known)
        {
            Ok(received) => {
                self.apply(account, entry, signed, hash, received, envelope)?;
                Ok(true)
            }
            Err(EntryFault::Duplicate) => Ok(true),
            Err(fault @ (EntryFault::Gap { .. } | EntryFault::Full { .. })) => {
                tracing::debug!(%fault, "an entry waits");
                let waiting: u64 = self
                    .db
                    .prepare_cached(
                        "SELECT count(*) FROM entries
                         WHERE account = ?1 AND line = ?2 AND applied IS NULL",
                    )?
                    .query_row(params![account.0, entry.line.0], |row| row.get(0))?;
                if waiting >= WAITING_MAX {
                    return Ok(false);
                }
                self.step.dirty_lines.insert((account, entry.line));
                self.store_entry(account, entry, signed, hash, None)?;
                Ok(true)
            }
            Err(fault) => {
                tracing::info!(%fault, "an entry is refused");
                Ok(false)
            }
        }
    }

    /// Entries whose predecessors have arrived meanwhile.
    pub(super) fn try_waiting(&mut self, account: AccountId, line: LineId) -> Result<()> {
        loop {
            let waiting: Vec<Vec<u8>> = self
                .db
                .prepare_cached(
                    "SELECT bytes FROM entries
                     WHERE account = ?1 AND line = ?2 AND applied IS NULL ORDER BY sequence",
                )?
                .query_map(params![account.0, line.0], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut moved = false;
            for bytes in waiting {
                let Ok(signed) = codec::decode::<Signed<Entry>>(&bytes) else {
                    continue;
                };
                let Ok(entry) = signed.unverified() else {
                    continue;
                };
                let hash = signed.hash();
                let known = self.lookup(account, &entry, hash)?;
                let decided = self
                    .known_line(account, line)?
                    .receive(&entry, hash, &known);
                if let Ok(received) = decided {
                    self.apply(account, &entry, &signed, hash, received, None)?;
                    moved = true;
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Signs the answers to what came in this step: one acceptance for all of a line, and declines.
    pub(super) fn answer_ious(&mut self) -> Result<()> {
        while let Some((account, id)) = self.step.answers.pop_first() {
            self.resume(account, id)?;
            let line = self.known_line(account, id)?;
            let refused = unexpected_locks(line);
            let answers = line.answers_due(&refused);
            for debts in answers.accept.chunks(MAX_NAMED) {
                let stamp = self.stamp(&account)?;
                match self.known_line(account, id)?.propose_accept(stamp, debts) {
                    Ok(entry) => self.sign_entry(account, &entry)?,
                    Err(refusal) => tracing::warn!(%refusal, "debts cannot be accepted"),
                }
            }
            for (debt, reason) in answers.decline {
                let stamp = self.stamp(&account)?;
                match self
                    .known_line(account, id)?
                    .propose_decline(stamp, debt, reason)
                {
                    Ok(entry) => self.sign_entry(account, &entry)?,
                    Err(refusal) => tracing::warn!(%refusal, "a debt cannot be declined"),
                }
            }
            // Answers make room: what waited for it may apply now.
            self.try_waiting(account, id)?;
        }
        Ok(())
    }

    /// Both halves of a contradiction are kept as portable proof, and people hear of it.
    fn equivocation(
        &mut self,
        account: AccountId,
        contact: AccountId,
        line: LineId,
        found: &pumasi_protocol::line::Equivocation,
    ) -> Result<()> {
        let mut halves = Vec::new();
        for hash in [found.first, found.second] {
            let bytes: Option<Vec<u8>> = one(self.db.query_row(
                "SELECT bytes FROM entries WHERE account = ?1 AND hash = ?2",
                params![account.0, hash.0],
                |row| row.get(0),
            ))?;
            halves.extend(bytes.and_then(|bytes| codec::decode::<Signed<Entry>>(&bytes).ok()));
        }
        let name = self.known_contact(account, contact)?.name.clone();
        if let [a, b] = &halves[..] {
            let proof = EquivocationProof::new(a.clone(), b.clone());
            self.event(
                Some(account),
                "node.alarm",
                &serde_json::json!({
                    "alarm": format!(
                        "two contradicting entries stand at one place of the line with {name}: new debt on it is stopped"
                    ),
                    "line": line.to_string(),
                    "author": found.author.to_string(),
                    "proof": data_encoding::BASE64.encode(&codec::encode(&proof)),
                }),
            )?;
        }
        Ok(())
    }

    /// A line with a contact on which something is owed or under way, in words.
    pub(super) fn open_line(
        &mut self,
        account: &AccountId,
        contact: AccountId,
    ) -> Result<Option<String>> {
        let ids: Vec<[u8; 32]> = self
            .db
            .prepare_cached("SELECT line FROM lines WHERE account = ?1 AND contact = ?2")?
            .query_map(params![account.0, contact.0], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in ids {
            let line = self.known_line(*account, LineId(id))?;
            let view = line.view();
            if view.balance != 0 || view.under_way() {
                return Ok(Some(line.unit().to_string()));
            }
        }
        Ok(None)
    }
}

/// A sequence as SQLite stores it; a chain never comes near 2^63 entries.
fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// Kind and id of a debt, as its row has them.
fn debt_row(debt: &DebtId) -> (i64, [u8; 32]) {
    match debt {
        DebtId::Iou(id) => (0, id.0),
        DebtId::Lock(id) => (1, id.0),
    }
}

/// Locks that wait for an answer: this node asks for none and passes none on, so it gives back each one.
fn unexpected_locks(line: &Line) -> BTreeMap<DebtId, DeclineReason> {
    let held = line.held(line.other());
    held.filter(|(id, _)| matches!(id, DebtId::Lock(_)))
        .map(|(id, _)| (id, DeclineReason::Unexpected))
        .collect()
}

fn refused(refusal: Refusal) -> Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::AboveLimit { available, .. } => {
            Error::new(ErrorKind::CreditLimitExceeded, message)
                .with("available", available.to_string())
        }
        Refusal::Closing { available, .. } => {
            Error::new(ErrorKind::LineStopped, message).with("available", available.to_string())
        }
        Refusal::Frozen
        | Refusal::Resume
        | Refusal::Waiting
        | Refusal::Replaced
        | Refusal::TooManyDevices
        | Refusal::Exhausted => Error::new(ErrorKind::LineStopped, message),
        Refusal::TooManyHeld | Refusal::TooManyLocks => Error::new(ErrorKind::Busy, message),
        Refusal::PurposeTooLong { .. } | Refusal::InstructionsTooLong { .. } => {
            Error::new(ErrorKind::TooLarge, message)
        }
        Refusal::SameAccount | Refusal::Zero | Refusal::Count { .. } => Error::invalid(message),
        Refusal::IdUsed => Error::new(ErrorKind::IdempotencyKeyReused, message),
        Refusal::AlreadySigned { .. }
        | Refusal::AboveMyLimit { .. }
        | Refusal::AboveOverhang { .. }
        | Refusal::NotOpen { .. }
        | Refusal::CloseStands
        | Refusal::NothingToResume
        | Refusal::NotHeld { .. } => Error::new(ErrorKind::Refused, message),
    }
}
