//! What a node is started with, and why a start can fail.

use std::fmt;

use crate::{PeerKey, limits};

/// How the network part of a node is set up. `Debug` does not show the secret.
#[derive(Clone)]
pub struct Config {
    /// Seed of the node's Ed25519 key (RFC 8032). The peer key follows from it.
    pub secret: [u8; 32],
    /// Network id: 1 to 32 of `a-z`, `0-9` and `-`. It is part of every protocol name, so nodes
    /// of two networks cannot open a session.
    pub network: String,
    /// Multiaddresses to listen on, such as `/ip4/0.0.0.0/udp/4001/quic-v1` or
    /// `/ip4/127.0.0.1/tcp/0`. May be empty: such a node only dials.
    pub listen: Vec<String>,
    /// Whether to look for nodes on the local network and to answer those who look. What is found
    /// has private addresses, so it can be dialled only with `allow_private`.
    pub mdns: bool,
    /// Whether the limits of a small node apply (48 connections, trimmed to 16 peers) instead of
    /// those of a community node (400, trimmed to 256).
    pub small: bool,
    /// Name and version of the program, told to peers.
    pub agent: String,
    /// Largest frame in bytes, 1 to 16 MiB. The same on all nodes of a network.
    pub max_frame: usize,
    /// Peers that are refused from the start.
    pub blocked: Vec<PeerKey>,
    /// Whether private, loopback and link-local addresses may be dialled, and are exempt from the
    /// limit of connections per IP. For LANs and tests; otherwise an address that somebody sent
    /// could make this node dial into its own network.
    pub allow_private: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("network", &self.network)
            .field("listen", &self.listen)
            .field("mdns", &self.mdns)
            .field("small", &self.small)
            .field("agent", &self.agent)
            .field("max_frame", &self.max_frame)
            .field("blocked", &self.blocked.len())
            .field("allow_private", &self.allow_private)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Refuses what cannot work, in words that say what to change.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let named = !self.network.is_empty()
            && self.network.len() <= 32
            && self
                .network
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !named {
            return Err(StartError::Config(
                "the network id must be 1 to 32 characters of a-z, 0-9 and '-'".to_owned(),
            ));
        }
        if self.max_frame == 0 || self.max_frame > limits::FRAME_CEILING {
            return Err(StartError::Config(format!(
                "max_frame must be between 1 and {} bytes",
                limits::FRAME_CEILING
            )));
        }
        if self.agent.len() > 128 {
            return Err(StartError::Config(
                "the agent name is longer than 128 bytes".to_owned(),
            ));
        }
        Ok(())
    }

    pub(crate) const fn size(&self) -> limits::Size {
        if self.small {
            limits::SMALL
        } else {
            limits::COMMUNITY
        }
    }
}

/// Why the network did not start. The text tells the operator what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting that cannot work.
    #[error("network setting: {0}")]
    Config(String),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address as configured.
        address: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The system refused something that every node needs.
    #[error("cannot start the network: {0}")]
    System(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            secret: [0xAB; 32],
            network: "test".to_owned(),
            listen: Vec::new(),
            mdns: false,
            small: true,
            agent: "t".to_owned(),
            max_frame: 1,
            blocked: Vec::new(),
            allow_private: true,
        }
    }

    #[test]
    fn debug_output_does_not_contain_the_secret() {
        let text = format!("{:?}", config());
        assert!(
            !text.contains("171") && !text.to_lowercase().contains("ab, "),
            "{text}"
        );
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_network_id_that_could_break_a_protocol_name_is_refused() {
        for bad in ["", "a/b", "A", "ü", "a b", &"x".repeat(33)] {
            assert!(
                Config {
                    network: bad.to_owned(),
                    ..config()
                }
                .check()
                .is_err(),
                "{bad}"
            );
        }
        assert!(config().check().is_ok());
    }
}
