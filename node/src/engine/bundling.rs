//! What nobody waits for leaves in company: acknowledgements for keepers, what was noted, archive pages
//! that only hold what the mailbox holds, too. It goes with the next frame to that node, or at the next
//! tick. In memory only: after a crash or a lost session, comparing and sending again make up for it.

use pumasi_protocol::archive::Page;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::mailbox::Statement;
use pumasi_protocol::types::{AccountId, Hash, NodeId};
use pumasi_protocol::wire::{BATCH_BYTES, Frame};

use super::{Effect, Engine};
use crate::error::Result;

/// Things that wait for one node at most; beyond, they leave at once.
const BUNDLE_MAX: usize = 256;

/// What waits for one node.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    noted: Vec<Hash>,
    statements: Vec<Signed<Statement>>,
    pages: Vec<(AccountId, Signed<Page>)>,
    /// Bytes of statements and pages.
    size: usize,
}

impl Bundle {
    fn is_full(&self) -> bool {
        let items = self.noted.len() + self.statements.len() + self.pages.len();
        items >= BUNDLE_MAX || self.size >= BATCH_BYTES / 2
    }
}

impl Engine {
    fn bundle(&mut self, node: NodeId) -> &mut Bundle {
        self.due.bundles.entry(node).or_default()
    }

    /// Says soon that statements are committed here.
    pub(super) fn note_soon(&mut self, node: NodeId, hashes: Vec<Hash>) {
        self.bundle(node).noted.extend(hashes);
    }

    /// Gives a statement to a connected keeper soon.
    pub(super) fn state_soon(&mut self, node: NodeId, statement: Signed<Statement>) {
        let bundle = self.bundle(node);
        bundle.size += statement.bytes().len();
        bundle.statements.push(statement);
    }

    /// Gives pages to a connected keeper soon.
    pub(super) fn shelve_soon(&mut self, node: NodeId, account: AccountId, pages: &[Signed<Page>]) {
        let bundle = self.bundle(node);
        for page in pages {
            bundle.size += page.bytes().len();
            bundle.pages.push((account, page.clone()));
        }
    }

    /// Sends what waits for a node.
    pub(super) fn send_bundle(&mut self, node: NodeId) -> Result<()> {
        let Some(bundle) = self.due.bundles.remove(&node) else {
            return Ok(());
        };
        if !self.peers.get(&node).is_some_and(|peer| peer.connected) {
            return Ok(());
        }
        if !bundle.noted.is_empty() {
            self.send(node, &Frame::Noted(bundle.noted));
        }
        if !bundle.statements.is_empty() {
            self.send(node, &Frame::Statements(bundle.statements));
        }
        let mut pages = bundle.pages;
        while let Some((account, _)) = pages.first() {
            let account = *account;
            let (these, rest) = pages.into_iter().partition(|(of, _)| *of == account);
            pages = rest;
            let these: Vec<(AccountId, Signed<Page>)> = these;
            let these = these.into_iter().map(|(_, page)| page).collect();
            self.send_pages(node, account, these)?;
        }
        Ok(())
    }

    /// Sends everything that waits.
    pub(super) fn send_bundles(&mut self) -> Result<()> {
        let nodes: Vec<NodeId> = self.due.bundles.keys().copied().collect();
        for node in nodes {
            self.send_bundle(node)?;
        }
        Ok(())
    }

    /// What waits goes along with what this step sends to the same node; so does what is too much.
    pub(super) fn send_along(&mut self) -> Result<()> {
        if self.due.bundles.is_empty() {
            return Ok(());
        }
        let sent = self.step.effects.iter().filter_map(|effect| match effect {
            Effect::Send(node, _) => Some(*node),
            _ => None,
        });
        let full = self.due.bundles.iter();
        let full = full.filter(|(_, bundle)| bundle.is_full());
        let nodes: Vec<NodeId> = sent.chain(full.map(|(node, _)| *node)).collect();
        for node in nodes {
            self.send_bundle(node)?;
        }
        Ok(())
    }
}
