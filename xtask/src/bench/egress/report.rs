//! Lines of the report, and whether targets are met.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Figures;
use super::case::{Case, Measured, Protocol, unit};
use super::way::Way;
use crate::bench::measure::median;

/// What is promised of ours against a peer, with HTTP/1.1 only, for the blind relay need not know what HTTP/2 is.
struct Target {
    case: Case,
    metric: &'static str,
    peer: Way,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// The ratio.
    AtLeast(f64),
    /// The difference, in the metric's unit.
    AddsAtMost(f64),
}

const TARGETS: &[Target] = &[
    target(Case::One, "rate", Way::Relay, Bound::AtLeast(0.9)),
    target(Case::Sixteen, "rate", Way::Relay, Bound::AtLeast(0.9)),
    target(Case::One, "rate", Way::Mitmproxy, Bound::AtLeast(20.0)),
    target(Case::Sixteen, "rate", Way::Mitmproxy, Bound::AtLeast(20.0)),
    target(Case::Connect, "rate", Way::Relay, Bound::AtLeast(0.8)),
    target(Case::Down, "mb_s", Way::Hudsucker, Bound::AtLeast(1.0)),
    target(
        Case::Events,
        "first_p99_us",
        Way::Direct,
        Bound::AddsAtMost(2_000.0),
    ),
    target(
        Case::Events,
        "p99_us",
        Way::Direct,
        Bound::AddsAtMost(2_000.0),
    ),
];

const fn target(case: Case, metric: &'static str, peer: Way, bound: Bound) -> Target {
    Target {
        case,
        metric,
        peer,
        bound,
    }
}

/// All lines.
pub(super) fn lines(figures: &Figures) -> Vec<Value> {
    let lines = figures
        .iter()
        .flat_map(|(what, by_way)| lines_of(*what, by_way));
    lines.collect()
}

/// Adds the version of a peer to what is compared with it.
pub(super) fn tell_version(lines: &mut [Value], peer: Way, version: &str) {
    for line in lines {
        if line["peer"] == peer.name() {
            line["peer_version"] = json!(version);
        }
    }
}

/// A line for each way, and one for ours against each other; what ours adds to the direct way has a line of its own.
fn lines_of(
    (measured, metric): (Measured, &'static str),
    by_way: &BTreeMap<Way, Vec<Option<f64>>>,
) -> Vec<Value> {
    let middle = |values: &[Option<f64>]| median(values.iter().flatten().copied());
    let name = |way: Way| format!("egress {measured} {metric} {}", way.name());
    let unit = unit(metric);
    let mut lines = Vec::new();
    for (way, values) in by_way {
        let failed = values.iter().filter(|value| value.is_none()).count();
        let mut line = json!({"name": name(*way), "unit": unit, "value": middle(values)});
        if failed > 0 {
            line["failed_rounds"] = json!(failed);
        }
        lines.push(line);
    }
    let Some(ours) = by_way.get(&Way::Ours) else {
        return lines;
    };
    for (way, theirs) in by_way.iter().filter(|(way, _)| **way != Way::Ours) {
        let both = || {
            let both = ours.iter().zip(theirs);
            both.filter_map(|(ours, theirs)| Some(((*ours)?, (*theirs)?)))
        };
        let ratio = median(both().map(|(ours, theirs)| ours / theirs));
        let added = median(both().map(|(ours, theirs)| ours - theirs));
        let peer = |what: &str, value: f64| {
            json!({"name": format!("{}{what}", name(Way::Ours)), "unit": unit, "value": value,
                "peer": way.name(), "peer_value": middle(theirs)})
        };
        let bound = bound(measured, metric, *way);
        let mut line = peer("", middle(ours));
        line["ratio"] = json!(ratio);
        if let Some(Bound::AtLeast(least)) = bound {
            line["target"] = json!(format!("at least {least}"));
            line["met"] = json!(ratio >= least);
        }
        lines.push(line);
        if *way == Way::Direct && unit == "us" {
            let mut line = peer(" added", added);
            if let Some(Bound::AddsAtMost(most)) = bound {
                line["target"] = json!(format!("at most {most}"));
                line["met"] = json!(added <= most);
            }
            lines.push(line);
        }
    }
    lines
}

fn bound(measured: Measured, metric: &str, peer: Way) -> Option<Bound> {
    let of_direct = peer == Way::Direct;
    let found = TARGETS.iter().find(|target| {
        (target.case, target.metric, target.peer) == (measured.case, metric, peer)
            && (of_direct || measured.protocol == Protocol::Http1)
    });
    found.map(|target| target.bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(lines: &[Value], name: &str, peer: &str) -> Value {
        let found = lines
            .iter()
            .find(|line| line["name"] == name && line["peer"].as_str().unwrap_or_default() == peer);
        let found = found.unwrap_or_else(|| panic!("{name} {peer} of {lines:?}"));
        found.clone()
    }

    fn measured(case: Case) -> Measured {
        let protocol = Protocol::Http1;
        Measured { protocol, case }
    }

    #[test]
    fn ours_is_compared_with_every_way_in_rounds_both_did() {
        let by_way = BTreeMap::from([
            (Way::Direct, vec![Some(10.0), Some(20.0), Some(30.0)]),
            (Way::Ours, vec![Some(11.0), Some(24.0), Some(33.0)]),
            (Way::Relay, vec![Some(22.0), None, Some(33.0)]),
        ]);
        let lines = lines_of((measured(Case::One), "p50_us"), &by_way);
        let ours = "egress http1 one p50_us ours";
        assert_eq!(find(&lines, ours, "")["value"], 24.0);
        assert_eq!(find(&lines, ours, "direct")["ratio"], 1.1);
        assert_eq!(find(&lines, ours, "relay")["ratio"], 0.75);
        let added = find(&lines, "egress http1 one p50_us ours added", "direct");
        assert_eq!(added["value"], 3.0);
        let relay = find(&lines, "egress http1 one p50_us relay", "");
        assert_eq!(relay["failed_rounds"], 1);
    }

    #[test]
    fn targets_are_told_with_the_peer_they_are_about() {
        let by_way = BTreeMap::from([
            (Way::Ours, vec![Some(80.0)]),
            (Way::Relay, vec![Some(100.0)]),
            (Way::Mitmproxy, vec![Some(4.0)]),
        ]);
        let lines = lines_of((measured(Case::Sixteen), "rate"), &by_way);
        let ours = "egress http1 sixteen rate ours";
        assert_eq!(find(&lines, ours, "relay")["met"], false);
        assert_eq!(find(&lines, ours, "mitmproxy")["met"], true);
        assert!(find(&lines, ours, "").get("met").is_none());
        let by_way = BTreeMap::from([
            (Way::Direct, vec![Some(100.0)]),
            (Way::Ours, vec![Some(2_101.0)]),
        ]);
        let lines = lines_of((measured(Case::Events), "p99_us"), &by_way);
        let added = find(&lines, "egress http1 events p99_us ours added", "direct");
        assert_eq!(added["met"], false);
    }
}
