//! Starting: builds the swarm, binds the addresses and spawns the task.

use std::{collections::HashMap, sync::Arc};

use libp2p::{Multiaddr, Swarm, TransportError, core::upgrade::Version, identity, swarm};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    Config, Event, EventReceiver, StartError, behaviour,
    handle::Command,
    limits,
    shared::{Permit, Shared},
    swarm::Task,
    transport,
};

/// Builds the swarm, starts its task and waits until all addresses are bound.
pub(crate) async fn start(
    config: &Config,
    keypair: &identity::Keypair,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
) -> Result<EventReceiver, StartError> {
    let settings = swarm::Config::with_tokio_executor()
        .with_smart_dial()
        .with_max_negotiating_inbound_streams(limits::NEGOTIATING_STREAMS)
        .with_idle_connection_timeout(limits::IDLE_CONNECTION)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let mut swarm = Swarm::new(
        transport::build(keypair, config.allow_private)?,
        behaviour::build(config, keypair)?,
        keypair.public().to_peer_id(),
        settings,
    );
    // All ports are tried before the first is taken: on Linux an IPv6 listener without an address
    // of its own would collide with ours for IPv4.
    let mut addresses = Vec::with_capacity(config.listen.len());
    for text in &config.listen {
        let address = check_address(text)
            .await
            .map_err(|reason| refusal(text, reason))?;
        addresses.push(address);
    }
    let mut listeners = HashMap::new();
    for (text, address) in config.listen.iter().zip(addresses) {
        let id = swarm.listen_on(address).map_err(|error| match error {
            TransportError::MultiaddrNotSupported(_) => refusal(
                text,
                "this form of address is not known; write /ip4/ADDRESS/udp/PORT/quic-v1 or \
                 /ip4/ADDRESS/tcp/PORT"
                    .to_owned(),
            ),
            TransportError::Other(error) => refusal(text, bind_advice(&error)),
        })?;
        listeners.insert(id, text.clone());
    }

    let (events, receiver) = mpsc::channel(limits::EVENTS);
    let (outbox, mut outgoing) = mpsc::channel::<(Event, Option<Permit>)>(limits::OUTBOX);
    let (notes, reports) = mpsc::channel(limits::NOTES);
    let (ready, started) = oneshot::channel();
    let mut tasks = JoinSet::new();
    let pump = events.clone();
    tasks.spawn(async move {
        while let Some((event, permit)) = outgoing.recv().await {
            if pump.send(event).await.is_err() {
                break;
            }
            drop(permit);
        }
    });
    let mut task = Task {
        swarm,
        shared,
        events,
        outbox,
        notes,
        connections: HashMap::new(),
        attempts: HashMap::new(),
        unknown: HashMap::new(),
        greetings: HashMap::new(),
        tasks,
        size: config.size(),
        network: config.network.clone(),
        listeners,
        ready: Some(ready),
        next_session: 1,
        next_trim: Instant::now() + limits::TRIM_EVERY,
        closing: None,
        failed: false,
    };
    task.tell_ready();
    tokio::spawn(task.run(commands, reports));
    match time::timeout(limits::TRANSPORT_WITHIN, started).await {
        Ok(Ok(result)) => result.map(|()| receiver),
        Ok(Err(_)) => Err(StartError::System(
            "the network task ended at once".to_owned(),
        )),
        Err(_) => Err(StartError::System(
            "an address was not bound in time".to_owned(),
        )),
    }
}

fn refusal(address: &str, reason: String) -> StartError {
    StartError::Listen {
        address: address.to_owned(),
        reason,
    }
}

/// Reads an address to listen on, and waits a little until its port is free: of a network that has
/// just ended, the QUIC sockets are still saying goodbye.
async fn check_address(text: &str) -> Result<Multiaddr, String> {
    let address: Multiaddr = text
        .parse()
        .map_err(|error| format!("{error}; write it like /ip4/0.0.0.0/udp/4001/quic-v1"))?;
    let until = Instant::now() + limits::PORT_WITHIN;
    while let Err(error) = transport::check_port(&address) {
        if error.kind() != std::io::ErrorKind::AddrInUse || Instant::now() >= until {
            return Err(bind_advice(&error));
        }
        time::sleep(limits::PORT_EVERY).await;
    }
    Ok(address)
}

/// What an operator can do about an address that cannot be bound.
fn bind_advice(error: &std::io::Error) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program uses it: choose another port",
        std::io::ErrorKind::PermissionDenied => "choose a port above 1023",
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        _ => "choose another address",
    };
    format!("{}; {advice}", root_cause(error))
}

/// The innermost error, where the fact is.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
