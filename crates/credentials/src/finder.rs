//! Goes through the sources of one provider and takes what is there: a token becomes a [`Credential`], the
//! guest gets its placeholder in the places the table names.
//!
//! Must hold: what a file holds beside the fields of the table goes nowhere.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_vm_process::{CommandSpec, find_program, run_captured};
use agent_vm_secret::{Placeholder, Secret};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::collect::CollectError;
use crate::credential::{Collected, Credential, Notice};
use crate::guest_document::{self, GuestDocuments, Rendering, at};
use crate::host_environment::HostEnvironment;
use crate::jwt;
use crate::provider::{
    CommandSource, Elsewhere, FileSource, Group, Login, Provider, Rest, Source, VariableSource,
};
use crate::refresh_endpoint::RefreshFacts;

use self::login_file::{Found, entry_found, expires, found_key, parse, scope, secret_at};

mod login_file;

/// Time a program of the host has to print a token: a launch waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);
/// Most parts of a file that are named as left out.
const MAX_LEFT_OUT: usize = 16;
/// Longest name of such a part that is shown, in characters.
const MAX_NAME: usize = 40;

/// What is found for one launch.
pub(crate) struct Finder<'e> {
    environment: &'e HostEnvironment,
    found: Collected,
    documents: GuestDocuments,
}

impl<'e> Finder<'e> {
    pub(crate) fn new(environment: &'e HostEnvironment) -> Self {
        Self {
            environment,
            found: Collected::default(),
            documents: GuestDocuments::default(),
        }
    }

    /// All that was found.
    pub(crate) fn finish(self) -> Collected {
        let mut found = self.found;
        found.guest_files = self.documents.finish();
        found
    }

    /// Takes the first way of being logged in that is there.
    pub(crate) fn provider(&mut self, provider: &Provider) -> Result<(), CollectError> {
        self.tell_passed_over(provider);
        let chosen = self.chosen(provider);
        let is_chosen =
            |group: &&Group| group.choice.is_some() && group.choice == chosen.as_deref();
        let first = provider.groups.iter().filter(is_chosen);
        let then = provider.groups.iter().filter(|group| !is_chosen(group));
        for group in first.chain(then.filter(|group| !group.only_chosen)) {
            if self.group(provider, group)? {
                return Ok(());
            }
        }
        self.found.notices.push(Notice::NotLoggedIn {
            provider: provider.name,
            fix: provider.fix,
        });
        Ok(())
    }

    fn group(&mut self, provider: &Provider, group: &Group) -> Result<bool, CollectError> {
        let mut any = false;
        for source in group.sources {
            any |= self.source(provider, source)?;
        }
        if any {
            for source in group.along {
                self.source(provider, source)?;
            }
            self.settings(group.settings);
        }
        Ok(any)
    }

    /// What the host's own program is set to use. Settings that cannot be read choose nothing: they are
    /// no credentials, and the program itself will complain.
    fn chosen(&self, provider: &Provider) -> Option<String> {
        let choice = provider.choice.as_ref()?;
        let text = self.environment.read(&choice.file.on(self.environment));
        let document: Option<Value> = text
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_str(&text).ok());
        let said = document.as_ref().and_then(|all| at(all, choice.field));
        if let Some(said) = said.and_then(Value::as_str) {
            return Some(said.to_owned());
        }
        let mut variables = choice.variables.iter();
        let set = variables.find(|(name, _)| self.environment.text(name) == Some("true"));
        set.map(|(_, choice)| (*choice).to_owned())
    }

    /// Whether something was found there.
    fn source(&mut self, provider: &Provider, source: &Source) -> Result<bool, CollectError> {
        match source {
            Source::Variable(source) => self.variable(source),
            Source::File(source) => self.file(provider, source),
            Source::Command(source) => self.command(source),
        }
    }

    fn variable(&mut self, source: &VariableSource) -> Result<bool, CollectError> {
        let Some(text) = self.environment.text(source.variable) else {
            return Ok(false);
        };
        let accepted = source.accepts.iter().any(|begin| text.starts_with(begin));
        if !source.accepts.is_empty() && !accepted {
            self.found.notices.push(Notice::NotAccepted {
                variable: source.variable,
                accepts: source.accepts,
            });
            return Ok(false);
        }
        let secret = Secret::new(text).map_err(|error| CollectError::NotASecret {
            name: source.variable.to_owned(),
            source: error,
        })?;
        self.take(Found {
            token: &source.token,
            secret: Some(secret),
            source: format!("${}", source.variable),
            document: &Value::Null,
            login: None,
        })?;
        Ok(true)
    }

    fn file(&mut self, provider: &Provider, source: &FileSource) -> Result<bool, CollectError> {
        let path = source.at.on(self.environment);
        let text = self.environment.read(&path);
        let text = text.map_err(|source| CollectError::ReadLogin {
            provider: provider.name,
            source,
        })?;
        let Some(text) = text else {
            return Ok(false);
        };
        let document = parse(source.format, &text, &path)?;
        let mut used = Vec::new();
        for entry in source.entries {
            let Some(found) = entry_found(entry, &document, &path) else {
                continue;
            };
            used.push(found_key(entry));
            self.take(found)?;
        }
        self.tell_rest(source.rest, &document, (&path, &used));
        Ok(!used.is_empty())
    }

    /// Says what of a file was not used.
    fn tell_rest(&mut self, rest: Rest, document: &Value, (path, used): (&Path, &[&str])) {
        let keys = document.as_object().into_iter().flat_map(|all| all.keys());
        let unused: Vec<&String> = keys.filter(|key| !used.contains(&key.as_str())).collect();
        let mut left_out = |what: Option<&str>| {
            self.found.notices.push(Notice::LeftOut {
                source: path.display().to_string(),
                what: what.map(|what| what.chars().take(MAX_NAME).collect()),
            });
        };
        match rest {
            Rest::EachKey => {
                for key in unused.into_iter().take(MAX_LEFT_OUT) {
                    left_out(Some(key));
                }
            }
            Rest::Whole if used.is_empty() && !unused.is_empty() => left_out(None),
            Rest::Whole | Rest::Silent => {}
        }
    }

    /// Says which logins of other kinds are on this host, whatever is used instead. What cannot be read is told where it
    /// is used.
    fn tell_passed_over(&mut self, provider: &Provider) {
        let mut seen: Vec<(String, &'static str)> = Vec::new();
        for known in provider.passed_over {
            match known.place {
                Elsewhere::Variable(variable) => {
                    if self.environment.text(variable).is_some() {
                        seen.push((format!("${variable}"), known.why));
                    }
                }
                Elsewhere::OtherKeys { at, format, used } => {
                    let path = at.on(self.environment);
                    let text = self.environment.read(&path).ok().flatten();
                    let document = text.and_then(|text| parse(format, &text, &path).ok());
                    let keys = document.iter().filter_map(Value::as_object).flatten();
                    let others = keys.filter(|(key, _)| key.as_str() != used);
                    seen.extend(others.take(MAX_LEFT_OUT).map(|(key, _)| {
                        let key: String = key.chars().take(MAX_NAME).collect();
                        (format!("{key} of {}", path.display()), known.why)
                    }));
                }
            }
        }
        let notices = seen.into_iter();
        let notices = notices.map(|(source, why)| Notice::PassedOver { source, why });
        for notice in notices {
            // Two providers may know one place.
            if !self.found.notices.contains(&notice) {
                self.found.notices.push(notice);
            }
        }
    }

    /// A program that is missing, fails or hangs is as good as no login.
    fn command(&mut self, source: &CommandSource) -> Result<bool, CollectError> {
        let environment = self.environment;
        let path = environment.vars.get(OsStr::new("PATH"));
        let Some(program) = path.and_then(|path| find_program(source.program, path)) else {
            return Ok(false);
        };
        let mut command = CommandSpec::new(program).args(source.arguments);
        command.env = environment.vars.clone().into_iter().collect();
        command.timeout = COMMAND_TIMEOUT;
        let Ok(captured) = run_captured(&command) else {
            return Ok(false);
        };
        let stdout = Zeroizing::new(captured.stdout);
        let text = std::str::from_utf8(&stdout).unwrap_or_default().trim_end();
        let secret = Secret::new(text).ok().filter(|_| captured.status.success());
        let Some(secret) = secret else {
            return Ok(false);
        };
        self.take(Found {
            token: &source.token,
            secret: Some(secret),
            source: format!(
                "output of `{} {}`",
                source.program,
                source.arguments.join(" ")
            ),
            document: &Value::Null,
            login: None,
        })?;
        Ok(true)
    }

    /// Mints placeholders and gives them to the guest.
    fn take(&mut self, found: Found<'_>) -> Result<(), CollectError> {
        let token = found.token;
        let placeholder = Placeholder::mint(token.prefix)?;
        let hosts = token.hosts(self.environment);
        let refresh = match found.login {
            Some(login) => Some(self.login(&found, login)?),
            None => None,
        };
        let refresh_text = refresh
            .as_ref()
            .map(|facts| facts.refresh_placeholder.to_string());
        let refresh_text = refresh_text.unwrap_or_default();
        let rendering = Rendering {
            access: placeholder.as_str(),
            refresh: &refresh_text,
            host: found.document,
            now: self.environment.now,
        };
        for document in token.documents {
            self.documents.add(document, &rendering);
        }
        let variables = token.variables.iter();
        let variables = variables.map(|name| ((*name).to_owned(), placeholder.to_string()));
        self.found.guest_env.extend(variables);
        let access = Credential {
            name: token.name.to_owned(),
            secret: found.secret,
            placeholder,
            hosts,
            header: token.header.spec(),
            source: found.source,
            refresh,
        };
        // The access token before the refresh token that `login` added.
        let at = self.found.credentials.len() - usize::from(access.refresh.is_some());
        self.found.credentials.insert(at, access);
        Ok(())
    }

    /// What renews a login; its refresh token becomes a credential that is never sent, known only so that
    /// it is refused wherever it turns up. One without a refresh token has a placeholder in that field all the same:
    /// clients want one, and what they ask for with it is answered by the launcher, never by the provider, whose
    /// refusal would make them forget the login.
    fn login(
        &mut self,
        found: &Found<'_>,
        (login, path): (&Login, &Path),
    ) -> Result<RefreshFacts, CollectError> {
        let expires = expires(login, found);
        let secret = secret_at(found.document, login.fields.refresh);
        if secret.is_none() && expires.is_some_and(|expires| expires <= self.environment.now) {
            self.found.notices.push(Notice::Expired {
                source: found.source.clone(),
                fix: login.fix,
            });
        }
        let placeholder = Placeholder::mint(login.refresh_prefix)?;
        self.found.credentials.push(Credential {
            name: format!("{}-refresh", found.token.name),
            secret,
            placeholder: placeholder.clone(),
            hosts: Vec::new(),
            header: found.token.header.spec(),
            source: found.source.clone(),
            refresh: None,
        });
        Ok(RefreshFacts {
            endpoint: login.endpoint,
            file: path.to_owned(),
            fields: login.fields,
            expires,
            refresh_placeholder: placeholder,
            guest_id_token: login.identity.then(jwt::guest_identity),
            guest_scope: scope(login, found.document),
        })
    }

    fn settings(&mut self, names: &[&str]) {
        let environment = self.environment;
        for name in names {
            // A project's name may have a domain in front.
            let plain = |text: &&str| guest_document::is_word(&text.replace('.', "-"));
            let given = self.found.guest_env.iter().any(|(known, _)| known == name);
            if let Some(text) = environment.text(name).filter(plain)
                && !given
            {
                let setting = ((*name).to_owned(), text.to_owned());
                self.found.guest_env.push(setting);
            }
        }
    }
}

/// Body of the fuzz target for the files of logins: whatever they hold, nothing panics, and the guest gets
/// no text of them that has not the shape of a word.
#[doc(hidden)]
pub fn fuzz_login_files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let environment = HostEnvironment {
        home: PathBuf::from("/"),
        vars: std::collections::BTreeMap::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    for id in crate::provider::ProviderId::ALL {
        for source in id.facts().files() {
            let path = Path::new("/file");
            let Ok(document) = parse(source.format, text, path) else {
                continue;
            };
            let mut finder = Finder::new(&environment);
            for found in source
                .entries
                .iter()
                .filter_map(|entry| entry_found(entry, &document, path))
            {
                let _ = finder.take(found);
            }
            finder.tell_rest(source.rest, &document, (path, &[]));
            let _ = finder.finish();
        }
    }
}

#[cfg(test)]
mod tests;
