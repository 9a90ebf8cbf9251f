//! How a connection is judged: rules and answers about each name, then the address, then the scopes.

use std::net::IpAddr;

use crate::address::{AddressClass, canonical, classify};
use crate::answer::Answer;
use crate::grant::{EgressRule, Preset, Rule, Scope, can_be_granted};
use crate::host::{HostName, HostPattern};
use crate::reason::DenyReason;
use crate::rule::{Action, FlowWord};

use super::{ConnectFacts, Grant, Owner, Policy, Resolution};

impl Policy {
    pub(super) fn judge(&self, facts: &ConnectFacts<'_>) -> Result<(Basis, Rule), Denied> {
        let class = classify(facts.address);
        if class == AddressClass::Metadata {
            return Err(DenyReason::Address(class).into());
        }
        if self.deny.iter().any(|pattern| pattern.covers(facts)) {
            return Err(DenyReason::Rule.into());
        }
        let names = self.words(facts)?;
        let held = names.len() < facts.names.len();
        let (basis, rule) = match self.by_address(facts)? {
            Some(rule) => {
                let unanswered = names.iter().all(|(_, word)| word.unanswered);
                match names.first() {
                    Some((_, word)) if unanswered => return Err(word.question()),
                    Some(_) | None => (Basis::Address, rule),
                }
            }
            None => self.by_name(&names)?,
        };
        let basis = if held { Basis::Name } else { basis };
        match (facts.resolution, &rule) {
            // What the person said of the name says more.
            (Resolution::Overridden, Rule::Asked(_) | Rule::Listed(_)) => Ok((basis, rule)),
            (Resolution::Overridden, _) => Ok((basis, Rule::Resolve)),
            (Resolution::Public | Resolution::ByProxy | Resolution::HostService, _) => {
                Ok((basis, rule))
            }
        }
    }

    /// The names that no rule denies, each with what rules say about it.
    ///
    /// # Errors
    /// When there are names, and all are denied.
    fn words<'a>(&'a self, facts: &ConnectFacts<'a>) -> Result<Vec<(&'a HostName, Word)>, Denied> {
        let (mut open, mut denied) = (Vec::new(), None);
        for name in facts.names {
            match self.word(name, Some(facts.port)) {
                Ok(word) => open.push((name, word)),
                Err(why) => denied = denied.or(Some(why)),
            }
        }
        match denied {
            Some(denied) if open.is_empty() => Err(denied),
            Some(_) | None => Ok(open),
        }
    }

    /// What rules and answers say about a name, at a port or as such.
    pub(super) fn word(&self, name: &HostName, port: Option<u16>) -> Result<Word, Denied> {
        let answer = self.answers.about(name);
        let asked = || answer.map(|(pattern, _)| Rule::Asked(pattern.clone()));
        if let Some((_, Answer::Deny)) = answer {
            return Err(Denied {
                reason: DenyReason::AnsweredNo,
                rule: asked(),
            });
        }
        let said = match port {
            Some(port) => self.rules.flow(name, port),
            None => self.rules.name(name),
        };
        let rule = match said {
            FlowWord::Says(rule) => Some(rule),
            FlowWord::Requests(rule) => rule,
            FlowWord::Nothing => None,
            FlowWord::Closed if answer.is_some() => None,
            FlowWord::Closed => return Err(DenyReason::Rule.into()),
        };
        let named = rule.map(|rule| Rule::Listed(rule.name.clone()));
        // A question about requests is put when one is made.
        let asks = rule.is_some_and(|rule| {
            rule.action == Action::Ask && !(rule.is_about_requests() && port.is_some())
        });
        match rule.map(|rule| rule.action) {
            Some(Action::Deny) => Err(Denied {
                reason: DenyReason::Rule,
                rule: named,
            }),
            Some(Action::Ask) if answer.is_some() => Ok(Word::listed(asked())),
            Some(Action::Ask) if asks => Ok(Word {
                listed: named,
                unanswered: true,
            }),
            Some(Action::Allow | Action::Ask) => Ok(Word::listed(named)),
            None => Ok(Word::listed(asked())),
        }
    }

    /// What the address alone says: what grants it, or why it may not be dialled for any name.
    fn by_address(&self, facts: &ConnectFacts<'_>) -> Result<Option<Rule>, Denied> {
        if facts.resolution == Resolution::HostService {
            return match self.host {
                Grant::Granted => Ok(Some(Rule::Host)),
                Grant::Denied => Err(DenyReason::HostAddress.into()),
            };
        }
        if facts.resolution == Resolution::ByProxy {
            // No grant is about what stands for a name.
            return Ok(None);
        }
        let granted = self.granted(facts.address, Some(facts.port), facts.owner);
        if granted.is_some() || facts.resolution == Resolution::Overridden {
            return Ok(granted);
        }
        match classify(facts.address) {
            _ if facts.owner == Owner::Host => Err(DenyReason::HostAddress.into()),
            AddressClass::Global => Ok(None),
            class => Err(DenyReason::Address(class).into()),
        }
    }

    /// What the scopes say when one of these names is meant, or none.
    fn by_name(&self, names: &[(&HostName, Word)]) -> Result<(Basis, Rule), Denied> {
        let mut denied: Option<Denied> = None;
        let mut found: Option<(Basis, Rule)> = None;
        for (name, word) in names {
            match self.within_scopes(Some((name, word))) {
                Ok(one) => found = found.or(Some(one)),
                // What can be asked about is asked before anything else is said.
                Err(why) if why.reason == DenyReason::Unanswered => denied = Some(why),
                Err(why) => denied = denied.or(Some(why)),
            }
        }
        match (found, denied) {
            (Some((_, rule)), Some(_)) => Ok((Basis::Name, rule)),
            (Some(found), None) => Ok(found),
            (None, Some(denied)) => Err(denied),
            (None, None) => self.within_scopes(None),
        }
    }

    /// The grant by address that covers a destination; at any port when that is not known.
    pub(super) fn granted(&self, address: IpAddr, port: Option<u16>, owner: Owner) -> Option<Rule> {
        let (address, class) = (canonical(address), classify(address));
        let covers = |rule: &&EgressRule| {
            let whose = owner == Owner::Other || rule.is_single();
            whose && can_be_granted(class) && rule.covers(address, port)
        };
        if let Some(rule) = self.egress.iter().find(covers) {
            return Some(Rule::Egress(*rule));
        }
        let lan = self.lan == Grant::Granted && owner == Owner::Other && is_lan(address, class);
        lan.then_some(Rule::Lan)
    }

    /// Whether every scope lets a flow for this name pass, or one for no name.
    pub(super) fn within_scopes(
        &self,
        name: Option<(&HostName, &Word)>,
    ) -> Result<(Basis, Rule), Denied> {
        let own = (&self.scope, name.and_then(|(_, word)| word.listed.clone()));
        // What widens the user's own list does not widen the project's; only the person's word does.
        let asked = name.and_then(|(name, _)| self.answers.about(name));
        let asked = asked.map(|(pattern, _)| Rule::Asked(pattern.clone()));
        let narrowed = self.narrowed.iter().map(|scope| (scope, asked.clone()));
        let scopes: Vec<_> = std::iter::once(own).chain(narrowed).collect();
        if scopes
            .iter()
            .any(|(scope, _)| scope.preset == Preset::Offline)
        {
            return Err(DenyReason::Offline.into());
        }
        let mut listed: Option<Rule> = None;
        let mut question = name.and_then(|(_, word)| word.unanswered.then(|| word.question()));
        let mut basis = Basis::Address;
        for (scope, by_rule) in scopes {
            if scope.preset == Preset::Public {
                continue;
            }
            basis = Basis::Name;
            let rule = by_rule.or_else(|| self.lists(scope, name?.0));
            match (rule, scope.preset, name) {
                (Some(rule), _, _) => listed = listed.or(Some(rule)),
                (None, Preset::Ask, Some(_)) => {
                    question = question.or(Some(DenyReason::Unanswered.into()));
                }
                (None, ..) => return Err(DenyReason::NotListed.into()),
            }
        }
        if let Some(question) = question {
            return Err(question);
        }
        let by_rule = name.and_then(|(_, word)| word.listed.clone());
        Ok((basis, listed.or(by_rule).unwrap_or(Rule::Public)))
    }

    /// What puts `name` on the list of `scope`.
    fn lists(&self, scope: &Scope, name: &HostName) -> Option<Rule> {
        let find = |patterns: &[HostPattern]| {
            let found = patterns.iter().find(|pattern| pattern.matches(name));
            found.cloned()
        };
        let listed = find(&scope.domains).map(Rule::Domain);
        let listed = listed.or_else(|| find(&self.intercept).map(Rule::CredentialHost));
        listed.or_else(|| find(&scope.builtin).map(Rule::Builtin))
    }
}

/// What rules and answers say about a name that they do not deny.
#[derive(Debug)]
pub(super) struct Word {
    /// What lists it.
    listed: Option<Rule>,
    /// That is a rule which asks first.
    pub(super) unanswered: bool,
}

impl Word {
    fn listed(listed: Option<Rule>) -> Self {
        Self {
            listed,
            unanswered: false,
        }
    }

    fn question(&self) -> Denied {
        Denied {
            reason: DenyReason::Unanswered,
            rule: self.listed.clone(),
        }
    }
}

/// Why a flow may not be, and what says so.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) reason: DenyReason,
    pub(super) rule: Option<Rule>,
}

impl From<DenyReason> for Denied {
    fn from(reason: DenyReason) -> Self {
        Self { reason, rule: None }
    }
}

/// What a flow was allowed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Its address: whatever host it is for.
    Address,
    /// One of its names: only for that host.
    Name,
}

/// Whether the address is itself one of the user's own network. One that only hides such an address leads elsewhere.
fn is_lan(canonical: IpAddr, class: AddressClass) -> bool {
    let plain = match canonical {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => matches!(v6.segments()[0], 0xfc00..=0xfdff | 0xfec0..=0xfeff),
    };
    plain && class == AddressClass::Private
}
