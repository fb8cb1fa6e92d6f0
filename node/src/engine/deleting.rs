//! Deleting texts for oneself: from the lists here, and from the archive, so that a restore does not
//! bring them back. The other side keeps its own.

use pumasi_protocol::archive::Record;
use pumasi_protocol::types::{AccountId, MessageId};
use rusqlite::params;

use super::segmenting::DELETED_MESSAGE;
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};
use crate::read;

impl Engine {
    /// Deletes a text. What is under way to others still goes.
    pub(crate) fn delete_message(
        &mut self,
        account: &AccountId,
        message: &MessageId,
    ) -> Result<()> {
        self.may_sign(account)?;
        let row: Option<([u8; 32], i64)> = one(self
            .db
            .prepare_cached(
                "SELECT contact, kind FROM messages WHERE account = ?1 AND message = ?2",
            )?
            .query_row(params![account.0, message.0], |row| {
                Ok((blob(row, 0)?, row.get(1)?))
            }))?;
        let Some((contact, kind)) = row else {
            return Err(Error::not_found(format!("no message {message} here")));
        };
        if kind != read::TEXT {
            return Err(Error::new(
                ErrorKind::Refused,
                "this message is an IOU: what is owed stays told, so it cannot be deleted",
            ));
        }
        self.db
            .prepare_cached("DELETE FROM messages WHERE account = ?1 AND message = ?2")?
            .execute(params![account.0, message.0])?;
        let (_, page) = self.archive(*account, Record::Deleted(vec![*message]));
        self.remember_deleted(*account, &message.0, DELETED_MESSAGE, page)?;
        let data = serde_json::json!({
            "id": message.to_string(),
            "contact": AccountId(contact).to_string(),
        });
        self.event(Some(*account), "message.deleted", &data)
    }
}
