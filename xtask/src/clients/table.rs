//! The cases: data. A new client is a new row.

use agent_vm_test_support::canary::Canary;
use agent_vm_test_support::providers::{ACCOUNT_ID, IN_ONE_HOUR, Service, signed};
use serde_json::{Value, json};

use super::case::{Case, Login, NpmPackage, Program, Seen, Special};

mod system;

const CLAUDE: NpmPackage = NpmPackage {
    spec: "@anthropic-ai/claude-code-linux-x64@2.1.329",
    program: "@anthropic-ai/claude-code-linux-x64/claude",
};
const CODEX: NpmPackage = NpmPackage {
    spec: "@openai/codex@0.169.0-linux-x64",
    program: "@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex",
};
const OPENCODE: NpmPackage = NpmPackage {
    spec: "opencode-linux-x64@1.18.33",
    program: "opencode-linux-x64/bin/opencode",
};
const COPILOT: NpmPackage = NpmPackage {
    spec: "@github/copilot-linux-x64@1.0.102",
    program: "@github/copilot-linux-x64/copilot",
};
const GEMINI: NpmPackage = NpmPackage {
    spec: "@google/gemini-cli@0.61.0",
    program: "@google/gemini-cli/bundle/gemini.js",
};

const CLAUDE_SCRIPT: &str = r#"exec "$1" --dangerously-skip-permissions -p "say hi""#;
/// Its login is over and nothing can renew it: it may fail, but may not forget the login.
const CLAUDE_OVER_SCRIPT: &str = r#""$1" --dangerously-skip-permissions -p "say hi" && exit 3
grep -q '"accessToken":"sk-ant-oat01-[^"]' ~/.claude/.credentials.json || exit 4
echo "The fake upstream greets you.""#;
const CODEX_SCRIPT: &str =
    r#"exec "$1" exec --dangerously-bypass-approvals-and-sandbox --skip-git-repo-check "say hi""#;
const COPILOT_SCRIPT: &str =
    r#"exec "$1" --no-color --no-auto-update --allow-all-tools -p "say hi""#;
const GEMINI_SCRIPT: &str = r#"GEMINI_CLI_TRUST_WORKSPACE=true exec node "$1" -p "say hi""#;
const BEARER: &str = "Bearer ";

/// All cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = claude();
    cases.extend(codex());
    cases.extend(opencode());
    cases.extend(copilot());
    cases.extend(gemini());
    cases.extend(system::github());
    cases.extend(system::stores());
    cases
}

fn case(name: &'static str, shows: &'static str, program: Program, script: &'static str) -> Case {
    Case {
        name,
        shows,
        program,
        agent: None,
        script,
        options: Vec::new(),
        host_files: Vec::new(),
        host_env: Vec::new(),
        logins: Vec::new(),
        seen: Vec::new(),
        special: Special::None,
    }
}

fn seen(
    host: &'static str,
    path: &'static str,
    header: &'static str,
    scheme: &'static str,
) -> Seen {
    Seen {
        host,
        path,
        header,
        scheme,
    }
}

/// A time `seconds` from now, in milliseconds.
fn in_ms(seconds: i64) -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    (now + seconds) * 1000
}

const CLAUDE_LOGIN: &str = ".claude/.credentials.json";

fn claude_login(login: &Login, expires_ms: i64) -> String {
    json!({"claudeAiOauth": {
        "accessToken": login.access, "refreshToken": login.refresh_text(), "expiresAt": expires_ms,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max",
        "rateLimitTier": "default_claude_max_20x"}})
    .to_string()
}

fn claude() -> Vec<Case> {
    let login = || Login::opaque(Service::Anthropic, "sk-ant-oat01-").renewable("sk-ant-ort01-");
    let plain = |name, shows, login: Login, expires| Case {
        agent: Some("claude"),
        host_files: vec![(CLAUDE_LOGIN, claude_login(&login, in_ms(expires)))],
        logins: vec![login],
        // The profile is asked for as well, but not waited for by a slow machine.
        seen: vec![seen(
            "api.anthropic.com",
            "/v1/messages",
            "authorization",
            BEARER,
        )],
        ..case(name, shows, Program::Npm(&CLAUDE), CLAUDE_SCRIPT)
    };
    let key = Login::opaque(Service::Anthropic, "sk-ant-api03-");
    vec![
        plain("claude", "a login of the host's file", login(), 86_400),
        Case {
            special: Special::Tool,
            ..plain(
                "claude-tool",
                "a tool prints the login: the prompt carries the placeholder",
                login(),
                86_400,
            )
        },
        Case {
            special: Special::Renewed(CLAUDE_LOGIN),
            ..plain(
                "claude-expired",
                "a login that ended is renewed by the launcher",
                login().ending_after(0),
                -60,
            )
        },
        Case {
            special: Special::Renewed(CLAUDE_LOGIN),
            ..plain(
                "claude-401",
                "a login that ends in the session is renewed",
                login().ending_after(2),
                86_400,
            )
        },
        Case {
            script: CLAUDE_OVER_SCRIPT,
            special: Special::NotRenewed,
            seen: Vec::new(),
            ..plain(
                "claude-over",
                "a login without refresh token that ended stays in the guest's file",
                Login::opaque(Service::Anthropic, "sk-ant-oat01-").ending_after(0),
                -60,
            )
        },
        Case {
            agent: Some("claude"),
            host_env: vec![("ANTHROPIC_API_KEY", key.access.clone())],
            logins: vec![key],
            seen: vec![seen("api.anthropic.com", "/v1/messages", "x-api-key", "")],
            ..case(
                "claude-key",
                "a key of the host's environment",
                Program::Npm(&CLAUDE),
                CLAUDE_SCRIPT,
            )
        },
    ]
}

const CODEX_LOGIN: &str = ".codex/auth.json";

/// A login whose token is signed; its end is what the token says.
fn openai_login(seconds: i64) -> Login {
    let canary = Canary::mint("openaicanary");
    Login {
        service: Service::OpenAi,
        access: signed(canary.token(), seconds),
        canary,
        refresh: Some(Canary::mint("rt_")),
        uses: None,
    }
}

fn codex_login(login: &Login) -> String {
    json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null,
        "tokens": {"id_token": signed("id-token-of-the-first-login0", IN_ONE_HOUR), "access_token": login.access,
            "refresh_token": login.refresh_text(), "account_id": ACCOUNT_ID},
        "last_refresh": "2026-01-01T00:00:00Z"})
    .to_string()
}

fn codex() -> Vec<Case> {
    let plain = |name, shows, login: Login| Case {
        agent: Some("codex"),
        host_files: vec![(CODEX_LOGIN, codex_login(&login))],
        logins: vec![login],
        seen: vec![
            seen(
                "chatgpt.com",
                "/backend-api/wham/accounts/check",
                "authorization",
                BEARER,
            ),
            seen(
                "chatgpt.com",
                "/backend-api/codex/responses",
                "authorization",
                BEARER,
            ),
        ],
        ..case(name, shows, Program::Npm(&CODEX), CODEX_SCRIPT)
    };
    let key = Login::opaque(Service::OpenAi, "sk-proj-");
    vec![
        plain(
            "codex",
            "a login of the host's file, the prompt by WebSocket",
            openai_login(86_400),
        ),
        Case {
            special: Special::NoWebSocket,
            ..plain(
                "codex-sse",
                "the prompt by a stream of events",
                openai_login(86_400),
            )
        },
        Case {
            special: Special::Renewed(CODEX_LOGIN),
            ..plain(
                "codex-expired",
                "a login that ended is renewed by the launcher",
                openai_login(-60).ending_after(0),
            )
        },
        Case {
            special: Special::Renewed(CODEX_LOGIN),
            ..plain(
                "codex-401",
                "a login that ends in the session is renewed",
                openai_login(86_400).ending_after(1),
            )
        },
        Case {
            agent: Some("codex"),
            host_files: vec![(
                CODEX_LOGIN,
                json!({"OPENAI_API_KEY": key.access}).to_string(),
            )],
            logins: vec![key],
            seen: vec![seen(
                "api.openai.com",
                "/v1/responses",
                "authorization",
                BEARER,
            )],
            ..case(
                "codex-key",
                "a key of the host's file",
                Program::Npm(&CODEX),
                CODEX_SCRIPT,
            )
        },
    ]
}

const OPENCODE_LOGIN: &str = ".local/share/opencode/auth.json";

/// OpenCode with a login or keys in this file.
fn with_opencode(
    (name, shows, script): (&'static str, &'static str, &'static str),
    logins: Vec<Login>,
    file: &Value,
) -> Case {
    Case {
        agent: Some("opencode"),
        // The catalogue of models has no login; with a secret its host is intercepted, so that the client trusts the fake.
        options: ["--secret", "CATALOGUE@models.opencode.ai"]
            .map(str::to_owned)
            .into(),
        host_env: vec![("CATALOGUE", "not-used-by-anybody".to_owned())],
        host_files: vec![(OPENCODE_LOGIN, file.to_string())],
        logins,
        ..case(name, shows, Program::Npm(&OPENCODE), script)
    }
}

fn opencode() -> Vec<Case> {
    const KEYS: &str = r#"set -e
"$1" run --model anthropic/claude-sonnet-4-5 "say hi"
"$1" run --model zai/glm-4.6 "say hi""#;
    let key = Login::opaque(Service::Anthropic, "sk-ant-api03-");
    let zai = Login::opaque(Service::Zai, "zai-");
    let keys = json!({"anthropic": {"type": "api", "key": key.access}, "zai": {"type": "api", "key": zai.access}});
    let shows = "keys of two providers in the host's file";
    let with_keys = Case {
        seen: vec![
            seen("api.anthropic.com", "/v1/messages", "x-api-key", ""),
            seen(
                "api.z.ai",
                "/api/paas/v4/chat/completions",
                "authorization",
                BEARER,
            ),
        ],
        ..with_opencode(("opencode", shows, KEYS), vec![key, zai], &keys)
    };
    let renewed = |case: Case| Case {
        special: Special::Renewed(OPENCODE_LOGIN),
        ..case
    };
    vec![
        with_keys,
        opencode_login(
            "opencode-login",
            "a ChatGPT login of the host's file",
            (openai_login(86_400), 86_400),
        ),
        renewed(opencode_login(
            "opencode-expired",
            "a login that ended is renewed by the launcher",
            (openai_login(-60).ending_after(0), -60),
        )),
        renewed(opencode_login(
            "opencode-401",
            "a login that ends in the session is renewed",
            (openai_login(86_400).ending_after(1), 86_400),
        )),
    ]
}

/// OpenCode with a login that its file says to end in so many seconds.
fn opencode_login(name: &'static str, shows: &'static str, (login, seconds): (Login, i64)) -> Case {
    // With a login it offers only the newer models.
    const OPENAI: &str = r#"exec "$1" run --model openai/gpt-5.4 "say hi""#;
    let file = json!({"openai": {"type": "oauth", "refresh": login.refresh_text(), "access": login.access,
        "expires": in_ms(seconds), "accountId": ACCOUNT_ID}});
    Case {
        seen: vec![seen(
            "chatgpt.com",
            "/backend-api/codex/responses",
            "authorization",
            BEARER,
        )],
        ..with_opencode((name, shows, OPENAI), vec![login], &file)
    }
}

fn copilot() -> Vec<Case> {
    let token = Login::opaque(Service::GitHub, "gho_");
    vec![Case {
        agent: Some("copilot"),
        host_env: vec![("COPILOT_GITHUB_TOKEN", token.access.clone())],
        logins: vec![token],
        seen: vec![
            seen(
                "api.github.com",
                "/copilot_internal/user",
                "authorization",
                "",
            ),
            seen(
                "api.individual.githubcopilot.com",
                "/chat/completions",
                "authorization",
                BEARER,
            ),
        ],
        ..case(
            "copilot",
            "a token of the host's environment",
            Program::Npm(&COPILOT),
            COPILOT_SCRIPT,
        )
    }]
}

const GEMINI_LOGIN: &str = ".gemini/oauth_creds.json";

fn gemini() -> Vec<Case> {
    let oauth = |name, shows, login: Login, expires| {
        let creds = json!({"access_token": login.access, "refresh_token": login.refresh_text(),
            "expiry_date": in_ms(expires), "token_type": "Bearer",
            "scope": "https://www.googleapis.com/auth/cloud-platform"});
        let settings = json!({"security": {"auth": {"selectedType": "oauth-personal"}}});
        Case {
            agent: Some("gemini"),
            host_files: vec![
                (GEMINI_LOGIN, creds.to_string()),
                (".gemini/settings.json", settings.to_string()),
            ],
            logins: vec![login],
            seen: vec![seen(
                "cloudcode-pa.googleapis.com",
                "/v1internal:",
                "authorization",
                BEARER,
            )],
            ..case(name, shows, Program::Npm(&GEMINI), GEMINI_SCRIPT)
        }
    };
    let login = || Login::opaque(Service::Google, "ya29.").renewable("1//");
    let key = Login::opaque(Service::Google, "AIza");
    vec![
        oauth("gemini", "a login of the host's file", login(), 86_400),
        Case {
            special: Special::Renewed(GEMINI_LOGIN),
            ..oauth(
                "gemini-expired",
                "a login that ended is renewed by the launcher",
                login().ending_after(0),
                -60,
            )
        },
        Case {
            special: Special::Renewed(GEMINI_LOGIN),
            ..oauth(
                "gemini-401",
                "a login that ends in the session is renewed",
                login().ending_after(2),
                86_400,
            )
        },
        Case {
            agent: Some("gemini"),
            host_env: vec![("GEMINI_API_KEY", key.access.clone())],
            logins: vec![key],
            seen: vec![seen(
                "generativelanguage.googleapis.com",
                "/v1beta/models/",
                "x-goog-api-key",
                "",
            )],
            ..case(
                "gemini-key",
                "a key of the host's environment",
                Program::Npm(&GEMINI),
                GEMINI_SCRIPT,
            )
        },
    ]
}
