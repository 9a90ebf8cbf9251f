//! Programs of the system: `gh`, `git`, and those that look for authorities in a place of their own.

use agent_vm_test_support::providers::{GITHUB_LOGIN, Service};

use super::super::case::{Case, Login, Program};
use super::{BEARER, case, seen};

/// The answer is what `cat` prints: the file that was pushed and cloned again.
const GIT_SCRIPT: &str = r#"set -e
git config --global user.name "A Person"
git config --global user.email person@example.test
git clone --quiet https://github.com/canary-user/hello.git one
head -c 3000000 /dev/urandom > one/large
echo "The fake upstream greets you." > one/file
cd one
git add file large
git commit --quiet -m second
git push --quiet origin main
cd ..
git clone --quiet https://github.com/canary-user/hello.git two
cmp one/large two/large
cat two/file"#;

/// GitHub, by its own program and by git.
pub(super) fn github() -> Vec<Case> {
    const GH: &str = r#"set -e
test "$(gh api user --jq .login)" = canary-user
gh api graphql -f query='{viewer{login}}' --jq .data.viewer.login > /dev/null
echo "The fake upstream greets you.""#;
    let plain = |name, shows, program, script| {
        let token = Login::opaque(Service::GitHub, "gho_");
        let hosts = format!(
            "github.com:\n    user: {GITHUB_LOGIN}\n    oauth_token: {}\n    git_protocol: https\n",
            token.access
        );
        Case {
            options: vec!["--github".to_owned()],
            host_files: vec![(".config/gh/hosts.yml", hosts)],
            logins: vec![token],
            ..case(name, shows, program, script)
        }
    };
    vec![
        Case {
            seen: vec![
                seen("api.github.com", "/user", "authorization", "token "),
                seen("api.github.com", "/graphql", "authorization", "token "),
            ],
            ..plain("gh", "the API by gh", Program::Debian("gh", "gh"), GH)
        },
        Case {
            seen: vec![
                seen(
                    "github.com",
                    "/canary-user/hello.git/git-upload-pack",
                    "authorization",
                    "Basic",
                ),
                seen(
                    "github.com",
                    "/canary-user/hello.git/git-receive-pack",
                    "authorization",
                    "Basic",
                ),
            ],
            ..plain(
                "git",
                "clone, push of 3 MB, clone",
                Program::Debian("git", "git"),
                GIT_SCRIPT,
            )
        },
    ]
}

const CURL_SCRIPT: &str = r#"set -e
curl -fsS -H "Authorization: Bearer $TOK" https://example.test/ > /dev/null
openssl s_client -brief -verify_return_error -verifyCApath /etc/ssl/certs -connect example.test:443 < /dev/null
echo "The fake upstream greets you.""#;

const NODE_SCRIPT: &str = r#"exec node -e 'fetch("https://example.test/", {headers: {authorization: "Bearer " + process.env.TOK}})
    .then(r => { if (!r.ok) process.exit(3); console.log("The fake upstream greets you.") })'"#;

const PYTHON_SCRIPT: &str = r#"exec "$1" -c 'import os, subprocess, sys, urllib.request, requests, httpx
# httpx knows no variable for a bundle that others would not obey too.
os.environ["SSL_CERT_DIR"] = "/etc/ssl/certs"
headers = {"authorization": "Bearer " + os.environ["TOK"]}
url = "https://example.test/"
urllib.request.urlopen(urllib.request.Request(url, headers=headers)).read()
requests.get(url, headers=headers).raise_for_status()
httpx.get(url, headers=headers).raise_for_status()
said = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check",
    "--retries", "0", "-i", url, "nothing-of-this-name"], capture_output=True, text=True)
assert "SSL" not in said.stderr + said.stdout and "certificate" not in said.stderr, said.stderr
print("The fake upstream greets you.")'"#;

const JAVA_SCRIPT: &str = r#"cat > "$TMPDIR/Ask.java" <<'END'
import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] args) throws Exception {
        var request = HttpRequest.newBuilder(URI.create("https://example.test/"))
            .header("Authorization", "Bearer " + System.getenv("TOK")).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        if (answer.statusCode() != 200) System.exit(3);
        System.out.println("The fake upstream greets you.");
    }
}
END
exec java "$TMPDIR/Ask.java""#;

/// Programs that look for authorities in a place of their own: each makes one request with a secret to a host that is
/// intercepted.
pub(super) fn stores() -> Vec<Case> {
    let plain = |name, shows, program, script| {
        let secret = Login::opaque(Service::Zai, "generic-");
        Case {
            options: vec!["--secret".to_owned(), "TOK@example.test".to_owned()],
            host_env: vec![("TOK", secret.access.clone())],
            logins: vec![secret],
            seen: vec![seen("example.test", "/", "authorization", BEARER)],
            ..case(name, shows, program, script)
        }
    };
    vec![
        plain(
            "store-curl",
            "the system's bundle and the hashed directory, by curl and openssl",
            Program::Debian("curl", "curl"),
            CURL_SCRIPT,
        ),
        plain(
            "store-node",
            "Node's own store",
            Program::Debian("node", "nodejs"),
            NODE_SCRIPT,
        ),
        plain(
            "store-python",
            "Python: ssl, requests, httpx, pip",
            Program::Pip("requests==2.32.3 httpx==0.28.1"),
            PYTHON_SCRIPT,
        ),
        plain(
            "store-java",
            "Java's own store",
            Program::Debian("java", "openjdk-17-jre-headless"),
            JAVA_SCRIPT,
        ),
    ]
}
