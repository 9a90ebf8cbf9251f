//! What the user grants, narrows or takes away: each option by what a guest then reaches.

use agent_vm_egress::{FlowEnd, OpenError};
use agent_vm_policy::{AddressClass, DenyReason, HOST_SERVICE_NAME, Policy, Preset, Scope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::rig::{API, FREE, OTHER, Rig, connect, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

fn scope(preset: Preset, domains: &[&str]) -> Scope {
    let domains = domains.iter().map(|text| text.parse().unwrap());
    Scope {
        preset,
        domains: domains.collect(),
        ..Scope::default()
    }
}

fn allowlist(domains: &[&str]) -> Policy {
    Policy::new(scope(Preset::Allowlist, domains))
}

/// Why a connection is denied; `None` when it is not.
async fn denial(rig: &Rig, name: Option<&str>, address: &str, port: u16) -> Option<DenyReason> {
    match rig.try_open(name, address, port).await {
        Err(OpenError::Denied { reason }) => Some(reason),
        Err(OpenError::Dial(_)) | Ok(_) => None,
    }
}

#[test]
fn only_listed_hosts_and_those_with_a_credential_are_reached() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(allowlist(&["*.free.test", FREE]));
        let (guest, _flow) = rig.open(FREE, 443).await;
        let pem = &rig.upstream.ca_pem;
        let stream = connect(guest, pem, FREE, &["http/1.1"]).await.unwrap();
        let mut client = http1(stream).await;
        let response = client
            .send_request(get("/", &[("host", FREE)]))
            .await
            .unwrap();
        assert_eq!(outcome(response).await.0, 200);
        let mut client = rig.http1(API).await;
        let response = client.send_request(get("/", &[])).await.unwrap();
        assert_eq!(outcome(response).await.0, 200);
        let not_listed = Some(DenyReason::NotListed);
        assert_eq!(
            denial(&rig, Some("other.test"), "8.8.8.8", 443).await,
            not_listed
        );
        assert_eq!(denial(&rig, None, "8.8.8.8", 443).await, not_listed);
        let line = rig.last_audit();
        assert_eq!(
            (&line["verdict"], &line["reason"]),
            (&"deny".into(), &"not-listed".into())
        );
    });
}

#[test]
fn a_listed_hosts_connection_cannot_be_used_for_another() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(allowlist(&[FREE]));
        for (name, reason) in [("evil.test", "not-listed"), (OTHER, "sni-mismatch")] {
            let (guest, flow) = rig.open(FREE, 443).await;
            let refused = connect(guest, &rig.upstream.ca_pem, name, &[]).await;
            assert!(refused.is_err());
            assert_eq!(flow.await.unwrap(), FlowEnd::Reset);
            assert_eq!(rig.last_audit()["reason"], reason, "{name}");
        }
        assert!(rig.upstream.seen.borrow().is_empty());
    });
}

#[test]
fn a_plain_request_to_a_listed_host_may_name_only_that_host() {
    let plain = Behaviour {
        tls: false,
        ..Behaviour::default()
    };
    with_rig(plain, async |rig| {
        let rig = rig.with_policy(allowlist(&[FREE]));
        let (guest, _flow) = rig.open(FREE, 80).await;
        let mut client = http1(guest).await;
        for (host, status) in [(FREE, 200), ("evil.test", 403)] {
            client.ready().await.unwrap();
            let request = get("/", &[("host", host)]);
            let response = client.send_request(request).await.unwrap();
            assert_eq!(outcome(response).await.0, status, "{host}");
        }
        rig.upstream.only_request();
        assert_eq!(rig.audit()[0]["rule"], "resolve");
    });
}

#[test]
fn offline_reaches_nothing_and_knows_no_name() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_policy(Policy::new(scope(Preset::Offline, &[])));
        for name in [Some(FREE), Some(API), Some("other.test"), None] {
            let reason = denial(&rig, name, "8.8.8.8", 443).await;
            assert_eq!(reason, Some(DenyReason::Offline), "{name:?}");
        }
        for name in [FREE, API, "odd name", HOST_SERVICE_NAME] {
            assert!(rig.egress().ask(name).is_err(), "{name}");
        }
    });
}

#[test]
fn names_exist_as_the_policy_says() {
    with_rig(Behaviour::default(), async |rig| {
        let asked = |rig: &Rig, name: &str| rig.egress().ask(name).is_ok();
        let listed = rig.with_policy(allowlist(&["*.a.test"]));
        for (name, public, allowlist) in [
            ("x.a.test", true, true),
            ("a.test", true, false),
            (API, true, true),
            ("odd name", true, false),
            ("8.8.8.8", true, false),
            (HOST_SERVICE_NAME, false, false),
        ] {
            assert_eq!(asked(&rig, name), public, "public: {name}");
            assert_eq!(asked(&listed, name), allowlist, "allowlist: {name}");
        }
        assert!(asked(
            &rig.with_policy(Policy::public().allow_host()),
            HOST_SERVICE_NAME
        ));
    });
}

#[test]
fn services_of_the_host_are_reached_by_their_name_only_and_also_offline() {
    with_rig(Behaviour::default(), async |rig| {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        let offline = Policy::new(scope(Preset::Offline, &[]));
        for policy in [Policy::public(), offline] {
            let without = rig.with_policy(policy.clone());
            let reason = denial(&without, Some(HOST_SERVICE_NAME), "198.18.0.9", port).await;
            assert_eq!(reason, Some(DenyReason::HostAddress));
            let with = rig.with_policy(policy.allow_host());
            let reason = denial(&with, None, "127.0.0.1", port).await;
            assert_eq!(reason, Some(DenyReason::HostAddress));
            let (mut guest, _flow) = with.open(HOST_SERVICE_NAME, port).await;
            let (mut server, _) = service.accept().await.unwrap();
            guest.write_all(b"hi").await.unwrap();
            let mut received = [0; 2];
            server.read_exact(&mut received).await.unwrap();
            assert_eq!(&received, b"hi");
            drop((guest, server));
        }
    });
}

#[test]
fn metadata_services_stay_denied_whatever_is_granted() {
    with_rig(Behaviour::default(), async |rig| {
        let everything = ["0.0.0.0/0", "::/0", "fd00::/8", "169.254.0.0/16"]
            .iter()
            .map(|text| text.parse().unwrap())
            .fold(Policy::public(), Policy::allow_egress);
        let rig = rig.with_policy(everything.allow_lan().allow_host());
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            let reason = denial(&rig, None, address, 80).await;
            let expected = DenyReason::Address(AddressClass::Metadata);
            assert_eq!(reason, Some(expected), "{address}");
        }
    });
}
