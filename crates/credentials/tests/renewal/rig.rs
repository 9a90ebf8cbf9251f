//! A home with one login, a provider, and launchers in this process and in others.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use agent_vm_credentials::{
    ClientLock, ClientValue, ExpiryField, GrantAnswer, GrantRequest, HostLogin, Issuer as Ask,
    IssuerUnreachable, Login, LoginFields, RefreshBody, RefreshEndpoint, RenewError, Renewing,
    ScopeField, Step, Why,
};
use agent_vm_egress::{IssuerClient, IssuerRequest, ProxySettings, ResolveOverride, UpstreamRoots};
use agent_vm_policy::HostName;
use agent_vm_test_support::issuer::{Behaviour, Issuer};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use zeroize::Zeroizing;

pub(crate) const HOST: &str = "login.issuer.test";
/// What a child process is told: role, address of the provider, home.
const ROLE: &str = "RENEWAL_TEST_ROLE";

static ENDPOINT: RefreshEndpoint = RefreshEndpoint {
    host: HOST,
    path: "/v1/oauth/token",
    body: RefreshBody::Json,
    client_id: ClientValue::Fixed("the-client"),
    client_secret: None,
    sends_scope: true,
    extra: &[],
};

static FIELDS: LoginFields = LoginFields {
    access: Some(&["claudeAiOauth", "accessToken"]),
    refresh: &["claudeAiOauth", "refreshToken"],
    expiry: ExpiryField::Milliseconds(&["claudeAiOauth", "expiresAt"]),
    id_token: None,
    scopes: Some(ScopeField::List(&["claudeAiOauth", "scopes"])),
    renewed_at: None,
    lock: ClientLock::ClaudeDirectories,
};

/// A home directory with a login.
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

impl Home {
    /// With the provider's current tokens of `generation`, the access token ending at `expires`.
    pub(crate) fn with_login(generation: usize, expires: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Self {
            path: dir.path().to_owned(),
            _dir: Some(dir),
        };
        fs_err::create_dir(home.path.join(".claude")).unwrap();
        home.log_in(generation, expires);
        // As if the client had written it a while ago.
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(home.file())
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        home
    }

    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            _dir: None,
        }
    }

    /// Writes the file as the host's own client does.
    pub(crate) fn log_in(&self, generation: usize, expires: SystemTime) {
        let ms = expires
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        let document = json!({
            "zUnknown": {"kept": [1, 2.5, null]},
            "claudeAiOauth": {
                "accessToken": Issuer::access(generation),
                "refreshToken": Issuer::refresh(generation),
                "expiresAt": ms,
                "scopes": ["user:profile", "user:inference"],
                "subscriptionType": "max",
                "unknown": "kept",
            },
        });
        fs_err::write(
            self.file(),
            serde_json::to_string_pretty(&document).unwrap(),
        )
        .unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path.join(".claude/.credentials.json")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&fs_err::read(self.file()).unwrap()).unwrap()
    }

    /// The generation of the tokens in the file, when they are of one generation.
    pub(crate) fn generation(&self) -> usize {
        let document = self.document();
        let login = &document["claudeAiOauth"];
        let access = login["accessToken"].as_str().unwrap();
        let generation: usize = access
            .strip_prefix("real-access-")
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(login["refreshToken"], Issuer::refresh(generation));
        generation
    }

    pub(crate) fn open(&self) -> HostLogin {
        HostLogin::open(&self.file(), (&ENDPOINT, &FIELDS), &self.state()).unwrap()
    }

    /// Names of files that hold anything of a token, beside the login's own.
    pub(crate) fn strays(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.path.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs_err::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path != self.file()
                    && String::from_utf8_lossy(&fs_err::read(&path).unwrap()).contains("real-")
                {
                    found.push(path);
                }
            }
        }
        found
    }
}

pub(crate) fn provider(behaviour: Behaviour) -> Issuer {
    Issuer::start(&[HOST], behaviour).unwrap()
}

pub(crate) fn quick() -> Behaviour {
    Behaviour {
        lifetime: 28_800,
        delay: Duration::ZERO,
        failing: None,
        coding: None,
    }
}

/// Asks over TLS through the egress's client, as a launcher does.
pub(crate) struct OverTls(IssuerClient);

impl OverTls {
    pub(crate) fn to(address: SocketAddr, ca_pem: &str) -> Self {
        let roots = UpstreamRoots {
            extra_pem: vec![ca_pem.to_owned()],
        };
        let to = ResolveOverride {
            host: HostName::parse(HOST).unwrap(),
            port: 443,
            target: address,
        };
        Self(IssuerClient::new(&roots, vec![to], ProxySettings::default()).unwrap())
    }
}

impl Ask for OverTls {
    fn ask(&self, request: GrantRequest) -> Result<GrantAnswer, IssuerUnreachable> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let request = IssuerRequest {
            host: HostName::parse(request.host).unwrap(),
            path: request.path.to_owned(),
            content_type: request.content_type,
            body: request.body.to_vec(),
        };
        let answered = LocalSet::new().block_on(&runtime, self.0.ask(request));
        let answer = answered.map_err(|error| IssuerUnreachable {
            problem: error.to_string(),
        })?;
        Ok(GrantAnswer {
            status: answer.status,
            retry_after: answer.retry_after,
            body: Zeroizing::new(answer.body),
        })
    }
}

/// Renews as a launcher in this process does.
pub(crate) fn renew(home: &Home, issuer: &Issuer, why: &Why) -> Result<Login, RenewError> {
    renew_reaching(home, (issuer.address(), issuer.ca_pem()), why, &|_| {})
}

pub(crate) fn renew_reaching(
    home: &Home,
    (address, ca_pem): (SocketAddr, &str),
    why: &Why,
    reached: &dyn Fn(Step),
) -> Result<Login, RenewError> {
    let issuer = OverTls::to(address, ca_pem);
    let renewing = Renewing {
        issuer: &issuer,
        reached,
    };
    home.open().renew(why, &renewing)
}

/// Starts this test program again as a process that does `role`: the test `child` of a module.
pub(crate) fn spawn(test: &str, role: &str, home: &Home, issuer: &Issuer) -> Child {
    let ca = home.path.join("ca.pem");
    // Others may be reading it.
    if !ca.exists() {
        fs_err::write(&ca, issuer.ca_pem()).unwrap();
    }
    let told = format!("{role} {} {}", issuer.address(), home.path.display());
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(ROLE, told)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn finish(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// What a child was told: its role, the provider, the authority, the home.
pub(crate) fn told() -> (String, SocketAddr, String, Home) {
    let told = std::env::var(ROLE).unwrap();
    let mut words = told.splitn(3, ' ');
    let role = words.next().unwrap().to_owned();
    let address = words.next().unwrap().parse().unwrap();
    let home = Home::at(Path::new(words.next().unwrap()));
    let ca_pem = fs_err::read_to_string(home.path.join("ca.pem")).unwrap();
    (role, address, ca_pem, home)
}

/// Counts steps.
#[derive(Default)]
pub(crate) struct Steps(Mutex<Vec<Step>>);

impl Steps {
    pub(crate) fn note(&self, step: Step) {
        self.0.lock().unwrap().push(step);
    }

    pub(crate) fn all(&self) -> Vec<Step> {
        self.0.lock().unwrap().clone()
    }
}
