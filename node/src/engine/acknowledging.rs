//! What this node's accounts say about their own mailboxes: acknowledgements, grants, read marks.

use pumasi_protocol::archive::Mark;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::mailbox::{Action, IDS_MAX, Statement};
use pumasi_protocol::types::{AccountId, MessageId, NodeId};
use pumasi_protocol::wire::Frame;
use rusqlite::params;

use super::outgoing::OUTBOX_STATEMENT;
use super::{Engine, blob};
use crate::error::Result;

impl Engine {
    /// One statement per account and sender for everything that reached the device in this step: to
    /// the sender's home, and to the keepers, who hide it.
    pub(super) fn acknowledge_delivered(&mut self) -> Result<()> {
        for ((account, contact), ids) in std::mem::take(&mut self.step.delivered) {
            for ids in ids.chunks(IDS_MAX) {
                let action = Action::Delivered { ids: ids.to_vec() };
                let home = self
                    .contact(account, contact)?
                    .map(|c| c.record.record.home.node);
                let statement = self.state_but(account, action, home)?;
                if let Some(home) = home {
                    self.statement_for(home, statement)?;
                }
            }
        }
        Ok(())
    }

    /// Signs and stores a statement of an own account, applies it here, and gives it to the keepers
    /// that are connected, acknowledgements soon; the others get it when mailboxes are compared.
    /// Returns its row.
    pub(super) fn state(&mut self, account: AccountId, action: Action) -> Result<i64> {
        self.state_but(account, action, None)
    }

    /// The same, but for a keeper that gets it another way.
    fn state_but(
        &mut self,
        account: AccountId,
        action: Action,
        but: Option<NodeId>,
    ) -> Result<i64> {
        let own = self.own(&account)?;
        let statement = Statement {
            account,
            epoch: own.record.certificate.epoch,
            time: self.now,
            action,
        };
        let signed = Signed::sign(&statement, &own.device);
        let keepers: Vec<NodeId> = own
            .record
            .record
            .keepers
            .iter()
            .map(|keeper| keeper.place.node)
            .filter(|node| Some(*node) != but)
            .collect();
        let private = matches!(statement.action, Action::Read { .. });
        let row = self.store_statement(&statement, &signed)?;
        if !private {
            for keeper in keepers {
                if !self.peers.get(&keeper).is_some_and(|peer| peer.connected) {
                    continue;
                }
                if matches!(statement.action, Action::Delivered { .. }) {
                    // It only hides what was taken.
                    self.state_soon(keeper, signed.clone());
                } else {
                    self.send(keeper, &Frame::Statements(vec![signed.clone()]));
                }
            }
        }
        Ok(row)
    }

    /// Hands a statement to a sender's home node, reliably.
    pub(super) fn statement_for(&mut self, node: NodeId, statement: i64) -> Result<()> {
        let outbox = self.queue_for(node, OUTBOX_STATEMENT, statement)?;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.connected) else {
            self.want(node);
            return Ok(());
        };
        if peer.backlog {
            return Ok(());
        }
        peer.cursor = peer.cursor.max(outbox);
        self.send_statements(node, &[(outbox, statement)])
    }

    /// Marks what a contact wrote as read, and tells it.
    pub(crate) fn mark_read(&mut self, account: &AccountId, who: &str) -> Result<u64> {
        let contact = self.find_contact(account, who)?;
        self.may_sign(account)?;
        let rows: Vec<[u8; 32]> = self
            .db
            .prepare_cached(
                "SELECT message FROM messages
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND state < 4 ORDER BY id",
            )?
            .query_map(params![account.0, contact.0], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        self.db
            .prepare_cached(
                "UPDATE messages SET state = 4
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND state < 4",
            )?
            .execute(params![account.0, contact.0])?;
        let home = self
            .known_contact(*account, contact)?
            .record
            .record
            .home
            .node;
        for message in &rows {
            self.archive_mark(*account, Mark::Read, MessageId(*message));
        }
        for messages in rows.chunks(IDS_MAX) {
            let messages = messages.iter().copied().map(MessageId).collect();
            let statement = self.state(*account, Action::Read { messages })?;
            self.statement_for(home, statement)?;
        }
        Ok(rows.len() as u64)
    }
}
