//! Decoding and the signature checks that need no state: they run beside the engine, one task per
//! peer. What they cannot judge (is this keeper in that record?) is left to the engine.

use pumasi_protocol::archive::{CheckedVolume, Page};
use pumasi_protocol::codec::{self, Bytes, DecodeError};
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::envelope::{Encapsulation, Envelope, SealName};
use pumasi_protocol::mailbox::{CustodyReceipt, IDS_MAX};
use pumasi_protocol::record::{NodeRecord, RecordError};
use pumasi_protocol::types::{EnvelopeId, NodeId, Time};
use pumasi_protocol::wire::{Frame, NODES_MAX, Response};

/// Receipts in one frame at most.
const RECEIPTS_MAX: usize = 64;
/// Envelopes in one frame at most: a full batch of the smallest has far fewer.
const PARCELS_MAX: usize = 512;
/// Seal keys beside one envelope at most.
const SEALS_MAX: usize = 2;

/// Heads of volumes in one frame at most.
const VOLUMES_MAX: usize = 4;

/// An envelope that decoded, with its id.
#[derive(Debug, Clone)]
pub(crate) struct CheckedParcel {
    /// The hash of its bytes.
    pub(crate) id: EnvelopeId,
    /// The envelope.
    pub(crate) envelope: Envelope,
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// The encapsulations that came with it, by name.
    pub(crate) seals: Vec<(SealName, Encapsulation)>,
}

/// A node record whose signature and bounds were checked.
#[derive(Debug, Clone)]
pub(crate) struct CheckedNode {
    /// The fields.
    pub(crate) record: NodeRecord,
    /// As it travels.
    pub(crate) signed: Signed<NodeRecord>,
}

/// A checked frame.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// The other node introduces itself.
    Hello(CheckedNode),
    /// Envelopes.
    Put {
        /// Those that decoded.
        parcels: Vec<CheckedParcel>,
        /// Those that did not.
        malformed: Vec<EnvelopeId>,
        /// Keepers to pass them on to.
        pass_on: Vec<NodeId>,
    },
    /// Receipts whose keeper signed them.
    Receipts(Vec<(CustodyReceipt, Signed<CustodyReceipt>)>),
    /// Node records, and the question they answer.
    Nodes(u64, Vec<CheckedNode>),
    /// A gossiped node record.
    Node(CheckedNode),
    /// Pages of archives, and the heads of volumes that check out.
    Pages {
        /// Heads.
        volumes: Vec<CheckedVolume>,
        /// Pages: whose volume did not come along, is checked by the engine.
        pages: Vec<Signed<Page>>,
    },
    /// Everything else: checked by the engine, because it needs to know whose it is.
    Other(Frame),
}

/// Why a frame ends the session: the peer's fault, or a newer program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The bytes are not a frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A node record is wrong.
    #[error("a node record is wrong: {0}")]
    Record(#[from] RecordError),
    /// A receipt's signature is wrong.
    #[error("a custody receipt is not signed by its keeper")]
    Receipt,
    /// The introduction names another node.
    #[error("the node introduces itself under another node's name")]
    Name,
    /// A list is longer than allowed.
    #[error("a list in the frame is too long")]
    List,
}

/// Decodes and checks a frame from `peer`.
pub(crate) fn frame(peer: NodeId, bytes: &[u8], now: Time) -> Result<Arrival, Fault> {
    let frame: Frame = codec::decode(bytes)?;
    match frame {
        Frame::Hello { record } => {
            let node = node(record, now)?;
            if node.record.place.node != peer {
                return Err(Fault::Name);
            }
            Ok(Arrival::Hello(node))
        }
        Frame::Put { parcels, pass_on } => {
            let nodes_max = pumasi_protocol::record::KEEPERS_MAX + 1;
            if pass_on.len() > nodes_max || parcels.len() > PARCELS_MAX {
                return Err(Fault::List);
            }
            let mut checked = Vec::with_capacity(parcels.len());
            let mut malformed = Vec::new();
            for parcel in parcels {
                let id = Envelope::id_of(&parcel.envelope);
                let decoded = codec::decode::<Envelope>(&parcel.envelope);
                match decoded {
                    Ok(envelope) if parcel.seals.len() <= SEALS_MAX => {
                        let seals = parcel.seals.into_iter().map(|seal| (seal.name(), seal));
                        let seals = seals.collect();
                        checked.push(CheckedParcel {
                            id,
                            envelope,
                            bytes: parcel.envelope,
                            seals,
                        });
                    }
                    _ => malformed.push(id),
                }
            }
            Ok(Arrival::Put {
                parcels: checked,
                malformed,
                pass_on,
            })
        }
        Frame::Receipts(list) => {
            if list.len() > RECEIPTS_MAX {
                return Err(Fault::List);
            }
            let mut receipts = Vec::with_capacity(list.len());
            for signed in list {
                let receipt = signed.unverified()?;
                if receipt.ids.len() > IDS_MAX {
                    return Err(Fault::List);
                }
                signed
                    .check(&receipt.keeper.0)
                    .map_err(|_| Fault::Receipt)?;
                receipts.push((receipt, signed));
            }
            Ok(Arrival::Receipts(receipts))
        }
        Frame::Response {
            id,
            response: Response::Nodes(list),
        } => {
            if list.len() > NODES_MAX {
                return Err(Fault::List);
            }
            // One stale record among many is no reason to drop the rest.
            Ok(Arrival::Nodes(
                id,
                list.into_iter()
                    .filter_map(|one| node(one, now).ok())
                    .collect(),
            ))
        }
        Frame::Pages { volumes, pages } => {
            if volumes.len() > VOLUMES_MAX || pages.len() > PARCELS_MAX {
                return Err(Fault::List);
            }
            let volumes = volumes
                .into_iter()
                .filter_map(|signed| CheckedVolume::check(signed).ok());
            Ok(Arrival::Pages {
                volumes: volumes.collect(),
                pages,
            })
        }
        other => Ok(Arrival::Other(other)),
    }
}

/// Checks a gossiped node record.
pub(crate) fn gossip(bytes: &[u8], now: Time) -> Result<Arrival, Fault> {
    let signed: Signed<NodeRecord> = codec::decode(bytes)?;
    Ok(Arrival::Node(node(signed, now)?))
}

fn node(signed: Signed<NodeRecord>, now: Time) -> Result<CheckedNode, Fault> {
    Ok(CheckedNode {
        record: NodeRecord::open(&signed, now)?,
        signed,
    })
}
