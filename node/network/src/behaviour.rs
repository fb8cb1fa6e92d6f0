//! The libp2p behaviours of a node and their settings. The ones that refuse come first, so that
//! the others allocate nothing for what is refused.

use std::{collections::HashSet, convert::Infallible};

use libp2p::{
    StreamProtocol, allow_block_list, connection_limits,
    gossipsub::{
        self, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity,
        MessageId, TopicHash, ValidationMode, WhitelistSubscriptionFilter,
    },
    identify, identity, mdns, memory_connection_limits,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use sha2::{Digest as _, Sha256};

use crate::{Config, StartError, Topic, address, limits, per_ip, streams};

type Gossip = gossipsub::Behaviour<
    IdentityTransform,
    MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>,
>;

/// All behaviours. The order counts.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Happening")]
pub(crate) struct Behaviour {
    pub(crate) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    per_ip: per_ip::Behaviour,
    pub(crate) streams: streams::Behaviour,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) gossip: Gossip,
}

/// What the behaviours report.
#[derive(Debug)]
pub(crate) enum Happening {
    Stream(streams::Event),
    Identify(Box<identify::Event>),
    Mdns(mdns::Event),
    Gossip(Box<gossipsub::Event>),
}

impl From<streams::Event> for Happening {
    fn from(event: streams::Event) -> Self {
        Self::Stream(event)
    }
}

impl From<identify::Event> for Happening {
    fn from(event: identify::Event) -> Self {
        Self::Identify(Box::new(event))
    }
}

impl From<mdns::Event> for Happening {
    fn from(event: mdns::Event) -> Self {
        Self::Mdns(event)
    }
}

impl From<gossipsub::Event> for Happening {
    fn from(event: gossipsub::Event) -> Self {
        Self::Gossip(Box::new(event))
    }
}

impl From<Infallible> for Happening {
    fn from(event: Infallible) -> Self {
        match event {}
    }
}

/// What identify says of a node of this network.
pub(crate) fn protocol_version(network: &str) -> String {
    format!("/pumasi/{network}/1")
}

/// The libp2p name of a topic.
pub(crate) fn topic(network: &str, topic: Topic) -> IdentTopic {
    IdentTopic::new(format!("/pumasi/{network}/{}/1", topic.name()))
}

/// Builds the behaviours.
pub(crate) fn build(config: &Config, keypair: &identity::Keypair) -> Result<Behaviour, StartError> {
    let system = |error: &dyn std::fmt::Display| StartError::System(error.to_string());
    let size = config.size();
    let established = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits::PENDING_IN))
        .with_max_pending_outgoing(Some(limits::PENDING_OUT))
        .with_max_established_incoming(Some(size.incoming))
        .with_max_established_outgoing(Some(size.outgoing))
        .with_max_established(Some(size.total))
        .with_max_established_per_peer(Some(limits::CONNECTIONS_PER_PEER));

    let session = StreamProtocol::try_from_owned(format!("/pumasi/{}/session/1", config.network))
        .map_err(|error| system(&error))?;

    let identify = identify::Config::new(protocol_version(&config.network), keypair.public())
        .with_agent_version(config.agent.clone())
        // Nobody is told where we listen, and what others say is not kept: addresses travel in
        // signed records, elsewhere.
        .with_hide_listen_addrs(true)
        .with_push_listen_addr_updates(false)
        .with_cache_size(0);

    let mdns = if config.mdns {
        let behaviour =
            mdns::tokio::Behaviour::new(mdns::Config::default(), keypair.public().to_peer_id())
                .map_err(|error| StartError::System(format!("mDNS: {error}")))?;
        Some(behaviour)
    } else {
        None
    };

    let mut blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers> =
        allow_block_list::Behaviour::default();
    for peer in config.blocked.iter().filter_map(address::peer_id) {
        blocked.block_peer(peer);
    }

    Ok(Behaviour {
        blocked,
        limits: connection_limits::Behaviour::new(established),
        memory: memory_connection_limits::Behaviour::with_max_percentage(limits::MEMORY_SHARE),
        per_ip: per_ip::Behaviour::new(config.allow_private),
        streams: streams::Behaviour::new(session),
        identify: identify::Behaviour::new(identify),
        mdns: mdns.into(),
        gossip: gossip(&config.network).map_err(StartError::System)?,
    })
}

/// Anonymous gossip with content hashes as ids: signatures are in the payload, where they are
/// checked once, and not once per duplicate.
fn gossip(network: &str) -> Result<Gossip, String> {
    let settings = gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(format!("/pumasi/{network}/gossip"))
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| message_id(&message.topic, &message.data))
        .flood_publish(false)
        .mesh_n_low(4)
        .mesh_n(5)
        .mesh_n_high(8)
        .mesh_outbound_min(2)
        .history_length(6)
        .history_gossip(3)
        .duplicate_cache_time(std::time::Duration::from_secs(300))
        .max_transmit_size(limits::GOSSIP_TRANSMIT)
        .connection_handler_queue_len(limits::GOSSIP_QUEUE)
        .max_publish_messages(limits::GOSSIP_MESSAGES)
        .build()
        .map_err(|error| error.to_string())?;
    let topics: HashSet<TopicHash> = Topic::ALL
        .iter()
        .map(|kind| topic(network, *kind).hash())
        .collect();
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(topics),
        max_subscribed_topics: limits::GOSSIP_TOPICS,
        max_subscriptions_per_request: limits::GOSSIP_TOPICS,
    };
    let mut gossip =
        Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, settings, filter)
            .map_err(str::to_owned)?;
    for kind in Topic::ALL {
        gossip
            .subscribe(&topic(network, kind))
            .map_err(|error| error.to_string())?;
    }
    Ok(gossip)
}

/// First 20 bytes of SHA-256 over the topic's length and name, and the payload.
fn message_id(topic: &TopicHash, data: &[u8]) -> MessageId {
    let mut hash = Sha256::new();
    hash.update((topic.as_str().len() as u64).to_be_bytes());
    hash.update(topic.as_str());
    hash.update(data);
    let hash = hash.finalize();
    MessageId::from(hash.iter().take(20).copied().collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_depends_on_topic_and_payload_only() {
        let nodes = topic("a", Topic::Nodes).hash();
        assert_eq!(message_id(&nodes, b"x"), message_id(&nodes, b"x"));
        assert_ne!(message_id(&nodes, b"x"), message_id(&nodes, b"y"));
        assert_ne!(
            message_id(&nodes, b"x"),
            message_id(&topic("b", Topic::Nodes).hash(), b"x")
        );
        assert_eq!(message_id(&nodes, b"x").0.len(), 20);
    }
}
