//! Addresses and peer keys in text form. The rest of the program sees strings and 32-byte keys.

use std::net::IpAddr;

use libp2p::{Multiaddr, PeerId, identity, multiaddr::Protocol};

use crate::{PeerKey, limits};

/// A peer id of an Ed25519 key is an identity multihash (code 0, 36 bytes) of the key in protobuf
/// form (type 1, 32 bytes). Source: libp2p specification, "Peer IDs and Keys".
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The libp2p id of a key; `None` when the bytes are not an Ed25519 public key.
pub(crate) fn peer_id(key: &PeerKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The key inside a libp2p id; `None` for keys that are not Ed25519.
pub(crate) fn peer_key(id: &PeerId) -> Option<PeerKey> {
    id.to_bytes().strip_prefix(&PEER_ID_PREFIX)?.try_into().ok()
}

/// The usual text form of a peer key (`12D3Koo...`).
#[must_use]
pub fn peer_text(peer: PeerKey) -> String {
    let mut bytes = PEER_ID_PREFIX.to_vec();
    bytes.extend_from_slice(&peer);
    // The bytes are a well-formed id whatever the key is, so the other branch is never taken.
    PeerId::from_bytes(&bytes).map_or_else(|_| String::from("?"), |id| id.to_base58())
}

/// Splits `/ip4/.../p2p/12D3...` into the peer and the address before it. `None` when the text is
/// not such an address, is longer than 256 bytes, or names a key that is not Ed25519.
#[must_use]
pub fn parse_address(text: &str) -> Option<(PeerKey, String)> {
    let (peer, address) = split(text)?;
    Some((peer?, address.to_string()))
}

/// Whether a text is an address that can be dialled, with or without `/p2p/...` at its end.
#[must_use]
pub fn is_address(text: &str) -> bool {
    split(text).is_some()
}

/// Puts the peer behind the address: the inverse of [`parse_address`]. The address is expected to
/// end without a peer; one that has this peer already is returned as it is.
#[must_use]
pub fn address_with_peer(address: &str, peer: PeerKey) -> String {
    let tail = format!("/p2p/{}", peer_text(peer));
    if address.ends_with(&tail) {
        address.to_owned()
    } else {
        format!("{address}{tail}")
    }
}

/// An address with the peer that it names, if any. `None` when it is none that can be dialled.
pub(crate) fn split(text: &str) -> Option<(Option<PeerKey>, Multiaddr)> {
    if text.len() > limits::ADDRESS_BYTES {
        return None;
    }
    let mut address: Multiaddr = text.parse().ok()?;
    let peer = match address.iter().last() {
        Some(Protocol::P2p(id)) => {
            address.pop();
            Some(peer_key(&id)?)
        }
        _ => None,
    };
    dialable(&address).then_some((peer, address))
}

/// Exactly `/host/tcp/port` or `/host/udp/port/quic-v1`: nothing else is spoken.
fn dialable(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip4, Ip6, QuicV1, Tcp, Udp};
    let parts: Vec<Protocol<'_>> = address.iter().take(4).collect();
    matches!(
        parts.as_slice(),
        [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Tcp(_)]
            | [Ip4(_) | Ip6(_) | Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1]
    )
}

/// The IP address at the head of a multiaddress.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)),
        _ => None,
    }
}

/// Loopback, private or link-local: an address that has its meaning only near here.
pub(crate) const fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PeerKey {
        let pair = identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
        peer_key(&pair.public().to_peer_id()).unwrap()
    }

    #[test]
    fn a_key_and_its_peer_id_convert_into_each_other() {
        let id = peer_id(&key()).unwrap();
        assert_eq!(peer_key(&id), Some(key()));
        assert_eq!(peer_text(key()), id.to_base58());
        assert!(peer_text(key()).starts_with("12D3Koo"));
    }

    #[test]
    fn an_address_with_a_peer_splits_and_joins_again() {
        for plain in [
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/dns4/example.org/tcp/4001",
        ] {
            let whole = address_with_peer(plain, key());
            assert_eq!(parse_address(&whole), Some((key(), plain.to_owned())));
            assert_eq!(address_with_peer(&whole, key()), whole);
            assert_eq!(parse_address(plain), None);
        }
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_refused() {
        let long = format!("/dns4/{}/tcp/1", "x".repeat(300));
        for bad in [
            "",
            "x",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4/tcp/1/ws",
            long.as_str(),
        ] {
            assert!(split(bad).is_none(), "{bad}");
        }
        assert!(split("/p2p-circuit").is_none());
    }
}
