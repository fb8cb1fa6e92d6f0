//! QUIC, and TCP with Noise and Yamux, both behind DNS names.

use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport, dummy::DummyTransport, global_only, upgrade::Version},
    },
    dns, identity,
    multiaddr::Protocol,
    noise, quic, tcp,
};

use crate::{StartError, address, limits, mux};

/// Builds the transport. Without `allow_private` only global addresses are dialled, those that a
/// name resolves to included.
pub(crate) fn build(
    keypair: &identity::Keypair,
    allow_private: bool,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, StartError> {
    let noise =
        noise::Config::new(keypair).map_err(|error| StartError::System(error.to_string()))?;

    let mut settings = quic::Config::new(keypair);
    settings.handshake_timeout = limits::QUIC_HANDSHAKE;
    settings.max_idle_timeout = limits::QUIC_IDLE_MS;
    settings.keep_alive_interval = limits::QUIC_KEEP_ALIVE;
    settings.max_concurrent_stream_limit = limits::STREAMS;
    settings.max_stream_data = limits::QUIC_STREAM_WINDOW;
    settings.max_connection_data = limits::QUIC_CONNECTION_WINDOW;

    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let quic = quic::tokio::Transport::new(settings);
    let upgraded = |tcp: Boxed<_>| {
        tcp.upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(mux::Upgrade)
            .timeout(limits::TRANSPORT_WITHIN)
            .boxed()
    };
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let either = |tcp: Boxed<_>, quic: Boxed<_>| {
        OrTransport::new(quic, tcp)
            .map(|either, _| either.into_inner())
            .boxed()
    };
    let inner = if allow_private {
        either(upgraded(tcp.boxed()), quic.boxed())
    } else {
        either(
            upgraded(global_only::Transport::new(tcp).boxed()),
            global_only::Transport::new(quic).boxed(),
        )
    };
    // A machine without a resolver, on a LAN without internet, still reaches numeric addresses.
    let probe = DummyTransport::<(PeerId, StreamMuxerBox)>::new();
    if let Err(error) = dns::tokio::Transport::system(probe) {
        tracing::warn!(%error, "no name resolver: only numeric addresses can be dialled");
        return Ok(inner);
    }
    let transport = dns::tokio::Transport::system(inner)
        .map_err(|error| StartError::System(format!("the name resolver: {error}")))?;
    Ok(transport.boxed())
}

/// Whether a port is free. libp2p listens on TCP with `SO_REUSEPORT`, so that two programs could
/// share a port without knowing, and each would get some of the other's peers.
pub(crate) fn check_port(address: &Multiaddr) -> std::io::Result<()> {
    match (address::ip(address), address.iter().nth(1)) {
        (Some(ip), Some(Protocol::Tcp(port))) if port != 0 => {
            std::net::TcpListener::bind((ip, port)).map(drop)
        }
        (Some(ip), Some(Protocol::Udp(port))) if port != 0 => {
            std::net::UdpSocket::bind((ip, port)).map(drop)
        }
        _ => Ok(()),
    }
}
