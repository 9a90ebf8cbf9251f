//! UDP and echo requests: what is carried, and that nothing passes that somebody would have to look into.

use agent_vm_egress::{
    ConnectRequest, DatagramKind, DatagramRecord, OpenError, ProxyServer, ProxySettings,
};
use agent_vm_policy::{DenyReason, HOST_SERVICE_NAME, HostName, Policy, Preset, Scope};
use tokio::net::UdpSocket;

use crate::rig::{API, FREE, Rig, with_rig};
use crate::upstream::Behaviour;

async fn opened(
    rig: &Rig,
    kind: DatagramKind,
    name: Option<&str>,
    (address, port): (&str, u16),
) -> Result<(UdpSocket, DatagramRecord), OpenError> {
    let request = ConnectRequest {
        names: name
            .iter()
            .map(|name| HostName::parse(name).unwrap())
            .collect(),
        address: address.parse().unwrap(),
        port,
    };
    rig.egress().open_datagrams(kind, request).await
}

/// Why UDP is denied; `None` when it is not.
async fn denial(rig: &Rig, name: Option<&str>, address: &str, port: u16) -> Option<DenyReason> {
    match opened(rig, DatagramKind::Udp, name, (address, port)).await {
        Err(OpenError::Denied { reason }) => Some(reason),
        Err(OpenError::Dial(_)) | Ok(_) => None,
    }
}

#[test]
fn datagrams_go_to_the_asked_peer_and_only_its_answers_come_back() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(Policy::public().allow_host());
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let at = ("198.18.0.9", port);
        let opened = opened(&rig, DatagramKind::Udp, Some(HOST_SERVICE_NAME), at).await;
        let (socket, mut record) = opened.unwrap();
        socket.send(b"asked").await.unwrap();
        let mut buffer = [0; 16];
        let (received, guest) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..received], b"asked");
        // Somebody else on this host knows the port.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"forged", guest).await.unwrap();
        server.send_to(b"answered", guest).await.unwrap();
        let received = socket.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..received], b"answered");
        record.passed(5, 8);
        drop(record);
        let line = rig.last_audit();
        assert_eq!(
            (&line["protocol"], &line["verdict"], &line["rule"]),
            (&"udp".into(), &"tunnel".into(), &"allow-host".into())
        );
        assert_eq!(
            (&line["bytes_up"], &line["bytes_down"], &line["port"]),
            (&5.into(), &8.into(), &port.into())
        );
    });
}

#[test]
fn what_somebody_would_have_to_look_into_is_denied() {
    with_rig(Behaviour::default(), async |rig| {
        // QUIC to a host with a credential.
        let denied = denial(&rig, Some(API), "198.18.0.9", 443).await;
        assert_eq!(denied, Some(DenyReason::Protocol));
        let line = rig.last_audit();
        assert_eq!(
            (&line["protocol"], &line["verdict"], &line["port"]),
            (&"udp".into(), &"deny".into(), &443.into())
        );
        let listed = rig.with_policy(Policy::new(Scope {
            preset: Preset::Allowlist,
            domains: vec![FREE.parse().unwrap()],
            ..Scope::default()
        }));
        let denied = denial(&listed, Some(FREE), "198.18.0.9", 443).await;
        assert_eq!(denied, Some(DenyReason::Protocol));
        let denied = denial(&listed, None, "8.8.8.8", 443).await;
        assert_eq!(denied, Some(DenyReason::NotListed));
    });
}

#[test]
fn addresses_are_judged_as_for_connections() {
    with_rig(Behaviour::default(), async |rig| {
        for address in [
            "10.0.0.1",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            let denied = denial(&rig, None, address, 9).await;
            assert!(denied.is_some(), "{address}");
            let echo = opened(&rig, DatagramKind::Echo, None, (address, 0)).await;
            assert!(matches!(echo, Err(OpenError::Denied { .. })), "{address}");
        }
        assert_eq!(denial(&rig, None, "8.8.8.8", 123).await, None);
        let offline = rig.with_policy(Policy::new(Scope {
            preset: Preset::Offline,
            ..Scope::default()
        }));
        let denied = denial(&offline, None, "8.8.8.8", 123).await;
        assert_eq!(denied, Some(DenyReason::Offline));
    });
}

#[test]
fn nothing_is_sent_past_the_hosts_proxy() {
    with_rig(Behaviour::default(), async |rig| {
        let proxies = ProxySettings {
            all: Some(ProxyServer::parse("http://127.0.0.1:9").unwrap()),
            ..ProxySettings::default()
        };
        let rig = rig.with_proxies(proxies);
        let denied = denial(&rig, None, "8.8.8.8", 123).await;
        assert_eq!(denied, Some(DenyReason::Protocol));
    });
}

/// The kernel decides by group who may send echo requests (`ip-sysctl.rst`, `ping_group_range`).
#[test]
fn echo_requests_are_answered_where_the_kernel_lets_us_ask() {
    with_rig(Behaviour::default(), async |rig| {
        let range = fs_err::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap();
        let range: Vec<u32> = range
            .split_whitespace()
            .map(|id| id.parse().unwrap())
            .collect();
        let mut groups = rustix::process::getgroups().unwrap();
        groups.push(rustix::process::getegid());
        let allowed = groups
            .iter()
            .any(|group| (range[0]..=range[1]).contains(&group.as_raw()));
        let rig = rig.with_policy(Policy::public().allow_host());
        let at = ("198.18.0.9", 0);
        let opened = opened(&rig, DatagramKind::Echo, Some(HOST_SERVICE_NAME), at).await;
        let Ok((socket, record)) = opened else {
            assert!(!allowed && matches!(opened, Err(OpenError::Dial(_))));
            assert_eq!(rig.last_audit()["verdict"], "failed");
            return;
        };
        assert!(allowed);
        // RFC 792: type 8, code 0; the kernel puts in checksum and identifier.
        socket.send(&[8, 0, 0, 0, 0, 0, 0, 1, b'p']).await.unwrap();
        let mut reply = [0; 64];
        let received = socket.recv(&mut reply).await.unwrap();
        assert_eq!((received, reply[0], reply[8]), (9, 0, b'p'));
        drop(record);
        assert_eq!(rig.last_audit()["protocol"], "icmp");
    });
}
