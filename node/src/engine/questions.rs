//! Frames by kind, questions and their answers.

use pumasi_protocol::crypto::{self};
use pumasi_protocol::record::{CheckedRecord, Place};
use pumasi_protocol::types::{AccountId, NodeId, SECOND};
use pumasi_protocol::wire::{Frame, Request, Response, keys_tag_text};

use super::Engine;
use super::peers::Asked;
use super::peers::Purpose;
use crate::check::Arrival;
use crate::error::Result;

/// Questions under way at most.
const ASKED_MAX: usize = 10_000;
/// Contacts' keys are asked for at most this often.
const KEYS_EVERY: u64 = SECOND;
/// After an answer is missing for less than this long, another node is asked first.
const KEYS_AGAIN: u64 = 10 * SECOND;
/// A question is given up after this long.
const ANSWER_WITHIN: u64 = 15 * SECOND;

impl Engine {
    /// Asks a connected node; otherwise the question is dropped: whoever asked is asked again by time.
    pub(super) fn ask(&mut self, node: NodeId, request: Request, purpose: Purpose) -> bool {
        if !self.peers.get(&node).is_some_and(|peer| peer.connected) {
            self.want(node);
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            return false;
        }
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let until = self.now.plus(ANSWER_WITHIN);
        self.asked.insert(
            id,
            Asked {
                node,
                purpose,
                until,
            },
        );
        self.send(node, &Frame::Request { id, request });
        true
    }

    pub(super) fn frame(&mut self, from: NodeId, arrival: Arrival) -> Result<()> {
        match arrival {
            Arrival::Hello(node) => self.learn_node(node).map(|_| ()),
            Arrival::Node(node) => self.learn_node(node).map(|_| ()),
            Arrival::Nodes(id, nodes) => {
                if self.answered(id, from).is_some() {
                    for node in nodes {
                        self.learn_node(node)?;
                    }
                }
                Ok(())
            }
            Arrival::Put {
                parcels,
                malformed,
                pass_on,
            } => self.put_arrived(from, parcels, malformed, &pass_on),
            Arrival::Receipts(receipts) => self.receipts(from, receipts),
            Arrival::Pages { volumes, pages } => self.pages_arrived(from, volumes, pages),
            Arrival::Other(frame) => self.other_frame(from, frame),
        }
    }

    pub(super) fn other_frame(&mut self, from: NodeId, frame: Frame) -> Result<()> {
        match frame {
            Frame::Refused { items, records } => {
                let records = records
                    .into_iter()
                    .filter_map(|signed| CheckedRecord::check(signed).ok());
                self.refused(from, items, records.collect())
            }
            Frame::Statements(list) => self.statements(from, list),
            Frame::Noted(hashes) => self.noted(from, &hashes),
            Frame::Attest { mailbox, ids } => self.attest(from, mailbox, &ids),
            Frame::Request { id, request } => {
                if let Some(response) = self.request(from, request)? {
                    self.send(from, &Frame::Response { id, response });
                }
                Ok(())
            }
            Frame::Response { id, response } => match self.answered(id, from) {
                Some(asked) => self.response(asked, response),
                None => Ok(()),
            },
            // Checked forms of these arrive as their own kinds.
            Frame::Hello { .. } | Frame::Put { .. } | Frame::Receipts(_) | Frame::Pages { .. } => {
                Ok(())
            }
        }
    }

    /// The question that an answer belongs to, if that node was asked.
    pub(super) fn answered(&mut self, id: u64, from: NodeId) -> Option<Asked> {
        if self.asked.get(&id)?.node != from {
            return None;
        }
        self.asked.remove(&id)
    }

    pub(super) fn request(&mut self, from: NodeId, request: Request) -> Result<Option<Response>> {
        let response = match request {
            Request::Keep { record, keys } => self.asked_to_keep(from, record, keys)?,
            Request::Release { record } => self.released(from, record)?,
            Request::Record { record, keys } => self.told_record(record, keys)?,
            Request::FindRecord(account) => {
                let record = match self.accounts.get(&account) {
                    Some(own) => Some(own.record.signed.clone()),
                    None => self.kept_record(&account)?.map(|record| record.signed),
                };
                Response::Record(record)
            }
            Request::Keys {
                account,
                capability,
                tag,
            } => self.give_keys(from, account, capability, tag)?,
            Request::OneTimeKeys { account, keys } => self.stock_keys(from, account, keys)?,
            Request::Nodes => Response::Nodes(self.some_nodes()?),
            Request::Digest {
                mailbox,
                record,
                statements,
                envelopes,
                archive,
                sign,
            } => {
                let hashes = [statements, envelopes, archive];
                self.compare_answer(from, mailbox, record, hashes, sign)?
            }
            Request::Reconcile {
                mailbox,
                set,
                since,
                message,
            } => self.reconcile_answer(from, mailbox, set, since, &message)?,
            Request::FetchStatements { mailbox, ids } => {
                self.fetch_statements(from, mailbox, &ids)?
            }
            Request::FetchEnvelopes { mailbox, ids } => {
                self.fetch_envelopes(from, mailbox, &ids)?
            }
            Request::FetchPages { mailbox, ids } => self.fetch_pages(from, mailbox, &ids)?,
            Request::PutLocator(locator) => self.take_locator(&locator)?,
            Request::FindLocator(name) => self.find_locator(&name)?,
            Request::ArchiveHead { mailbox } => self.archive_head(from, mailbox)?,
            Request::Audit { mailbox, id, nonce } => self.audit(from, mailbox, id, &nonce)?,
        };
        Ok(Some(response))
    }

    pub(super) fn response(&mut self, asked: Asked, response: Response) -> Result<()> {
        let node = asked.node;
        match (asked.purpose, response) {
            (Purpose::Keep(account), response) => self.keep_answer(account, node, response),
            (Purpose::TellKeeper(account, _), Response::Newer(record)) => {
                self.newer_own_record(account, record)
            }
            (Purpose::TellKeeper(account, version), response) => {
                self.told(account, version, node, &response)
            }
            (Purpose::Audit(account, right), response) => {
                self.audit_answer(account, node, right, &response)
            }
            (Purpose::Compare(mailbox, _), Response::Newer(record)) => {
                self.newer_own_record(mailbox, record)
            }
            (Purpose::Compare(mailbox, _), Response::No { .. }) => {
                self.no_part_there(mailbox, node)
            }
            (Purpose::Head(account), Response::Head { epoch, number }) => {
                self.head_answer(account, node, epoch, number)
            }
            (Purpose::Head(account), Response::Newer(record)) => {
                self.newer_own_record(account, record)
            }
            (Purpose::Locate(account), Response::Locator(locator)) => {
                self.locator_found(account, node, locator)
            }
            (Purpose::Find(account), Response::Record(record)) => {
                self.record_found(account, node, record)
            }
            (Purpose::Fence(account), Response::Done) => self.fenced(account, node),
            (Purpose::Fence(account), Response::Newer(record)) => {
                self.newer_own_record(account, record)
            }
            (Purpose::Stock(account), Response::Stock(count)) => {
                self.stock_answer(account, node, count)
            }
            (
                Purpose::Keys(account, contact),
                Response::Keys {
                    record,
                    keys,
                    one_time,
                },
            ) => self.keys_answer(account, contact, record, keys, one_time),
            (
                Purpose::Compare(mailbox, asked),
                Response::Digest {
                    statements,
                    envelopes,
                    archive,
                    shelf,
                },
            ) => {
                if let Some(shelf) = shelf {
                    self.shelf_receipt(mailbox, node, asked, &shelf)?;
                }
                self.compare_result(mailbox, node, statements, envelopes, archive)
            }
            (Purpose::Reconcile(mailbox, set, round, since), Response::Reconcile(message)) => {
                self.reconcile_step(mailbox, node, set, (round, since), &message)
            }
            _ => Ok(()),
        }
    }

    /// Asks for a contact's keys: its home and keepers, whoever is connected first.
    pub(super) fn ask_for_keys(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let now = self.now;
        let me = self.me;
        let entry = self.known_contact(account, contact)?;
        let before = now.since(entry.keys_asked);
        if before < KEYS_EVERY {
            // Asked a moment ago, perhaps for a device that is not theirs any more: again, in its time.
            let at = entry.keys_asked.plus(KEYS_EVERY);
            self.due.wanting_keys.insert((account, contact), at);
            return Ok(());
        }
        entry.keys_asked = now;
        let capability = entry.secrets.write.clone();
        let record = &entry.record.record;
        let mut nodes = vec![record.home.node];
        nodes.extend(record.keepers.iter().map(|keeper| keeper.place.node));
        if before < KEYS_AGAIN {
            // Whoever was asked a moment ago had no answer: begin with another.
            let turn = usize::try_from(now.0 / KEYS_EVERY).unwrap_or(0) % nodes.len();
            nodes.rotate_left(turn);
        }
        let places: Vec<Place> = record
            .keepers
            .iter()
            .map(|keeper| keeper.place.clone())
            .chain([record.home.clone()])
            .collect();
        for place in places {
            self.due.hints.entry(place.node).or_insert(place.addresses);
        }
        let tag = crypto::mac(
            &capability.tag_key().0,
            "keys",
            &keys_tag_text(&contact, &me),
        );
        self.due
            .wanting_keys
            .insert((account, contact), now.plus(KEYS_EVERY));
        for node in nodes {
            let request = Request::Keys {
                account: contact,
                capability: capability.id(),
                tag,
            };
            if self.ask(node, request, Purpose::Keys(account, contact)) {
                break;
            }
        }
        Ok(())
    }
}
