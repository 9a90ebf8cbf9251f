//! What must be refused before a session begins is refused by this session's own policy and recorded, or the session is not
//! known to be safe.

use std::path::Path;

use agent_vm_egress::CanaryAlive;
use agent_vm_policy::{Policy, Preset, Scope};

use crate::rig::{Rig, with_rig};
use crate::upstream::Behaviour;

async fn tried(rig: &Rig) -> Result<(), CanaryAlive> {
    let canary = rig.egress().canary();
    let (address, port) = canary.destination();
    assert!(rig.egress().ask(canary.name().as_str()).is_err());
    let opened = rig.try_open(None, &address.to_string(), port).await;
    assert!(opened.is_err());
    rig.egress().is_in_force()
}

#[test]
fn an_egress_that_refused_its_canary_is_in_force_under_every_preset() {
    with_rig(Behaviour::default(), async |rig| {
        let preset = |preset| {
            Policy::new(Scope {
                preset,
                ..Scope::default()
            })
        };
        for policy in [
            Policy::public(),
            preset(Preset::Offline),
            preset(Preset::Allowlist),
            Policy::public().allow_lan().allow_host(),
        ] {
            let rig = rig.with_policy(policy);
            assert_eq!(tried(&rig).await, Ok(()));
        }
        let lines = rig.audit();
        let canaries: Vec<_> = lines.iter().filter(|l| l["kind"] == "canary").collect();
        assert_eq!(canaries.len(), 8, "{lines:?}");
        assert!(canaries.iter().all(|line| line["verdict"] == "deny"));
    });
}

#[test]
fn a_canary_that_was_not_tried_is_not_refused() {
    with_rig(Behaviour::default(), async |rig| {
        let egress = rig.egress();
        assert_eq!(egress.is_in_force(), Err(CanaryAlive::Name));
        egress.ask(egress.canary().name().as_str()).unwrap_err();
        assert_eq!(egress.is_in_force(), Err(CanaryAlive::Connection));
    });
}

#[test]
fn what_only_resembles_the_canary_is_not_taken_for_it() {
    with_rig(Behaviour::default(), async |rig| {
        let other = rig.with_policy(Policy::public());
        let (egress, canary) = (rig.egress(), other.egress().canary());
        let (address, port) = egress.canary().destination();
        let _other_sessions = egress.ask(canary.name().as_str());
        let next = port.checked_add(1).unwrap_or(1);
        let opened = rig.try_open(None, &address.to_string(), next).await;
        assert!(opened.is_err());
        assert_eq!(egress.is_in_force(), Err(CanaryAlive::Name));
        egress.ask(egress.canary().name().as_str()).unwrap_err();
        assert_eq!(egress.is_in_force(), Err(CanaryAlive::Connection));
    });
}

#[test]
fn a_refusal_that_cannot_be_recorded_does_not_count() {
    with_rig(Behaviour::default(), async |rig| {
        let rig = rig.with_audit(Path::new("/dev/full"));
        assert_eq!(tried(&rig).await, Err(CanaryAlive::Audit));
    });
}

#[test]
fn the_canarys_lines_are_two_however_often_it_is_tried() {
    with_rig(Behaviour::default(), async |rig| {
        for _ in 0..3 {
            assert_eq!(tried(&rig).await, Ok(()));
        }
        let lines = rig.audit();
        assert_eq!(
            lines.iter().filter(|line| line["kind"] == "canary").count(),
            2,
            "{lines:?}"
        );
    });
}
