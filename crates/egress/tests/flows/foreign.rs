//! An allowed host used with somebody else's key would carry files away: bound hosts accept only their own credential.

use agent_vm_policy::Policy;
use agent_vm_secret::Placeholder;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::denials::denied;
use crate::rig::{API, FREE, OAUTH_SECRET, get, http1, outcome, with_rig};
use crate::upstream::Behaviour;

#[test]
fn an_allowed_host_used_with_the_attackers_own_key_is_refused() {
    with_rig(Behaviour::default(), async |rig| {
        let reason = "foreign-credential";
        let basic = format!("Basic {}", STANDARD.encode("attacker:ghp_foreign"));
        for field in [
            ("authorization", "Bearer sk-ant-foreign"),
            ("authorization", &basic),
            ("x-api-key", "sk-ant-foreign"),
            ("x-goog-api-key", "AIzaForeign"),
            ("api-key", "foreign"),
            ("x-broken", "foreign"),
            ("cookie", "sessionKey=sk-ant-sid01-foreign"),
            (
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.sk-foreign",
            ),
        ] {
            denied(&rig, "/v1/files", &[field], reason).await;
        }
        denied(&rig, "/v1/files?access_token=foreign", &[], reason).await;
        denied(&rig, "/v1/files?a=b&API%5FKEY=foreign", &[], reason).await;
        let own = format!("Bearer {}", rig.oauth);
        let both = [("authorization", own.as_str()), ("x-api-key", "sk-foreign")];
        denied(&rig, "/v1/files", &both, reason).await;
    });
}

#[test]
fn the_placeholder_of_another_vm_is_just_a_foreign_key() {
    with_rig(Behaviour::default(), async |rig| {
        let stranger = Placeholder::mint("sk-ant-oat01-").unwrap();
        let bearer = format!("Bearer {stranger}");
        denied(
            &rig,
            "/",
            &[("authorization", &bearer)],
            "foreign-credential",
        )
        .await;
    });
}

#[test]
fn a_foreign_key_beside_the_placeholder_is_refused() {
    with_rig(Behaviour::default(), async |rig| {
        let token = "0123456789abcdef0123456789abcdef01234567";
        let basic = format!(
            "Basic {}",
            STANDARD.encode(format!("{token}:{}", rig.oauth))
        );
        let listed = format!("Bearer {}, Bearer sk-foreign", rig.oauth);
        for value in [basic, listed] {
            denied(
                &rig,
                "/",
                &[("authorization", &value)],
                "foreign-credential",
            )
            .await;
        }
    });
}

#[test]
fn the_refusal_says_where_the_login_is_and_never_what_it_is() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        let request = get(
            "/",
            &[("x-api-key", "sk-foreign"), ("accept", "application/json")],
        );
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        let (status, _, text) = outcome(response).await;
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        let message = told["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("It is in the header x-api-key."),
            "{message}"
        );
        assert!(status == 403 && !text.contains("sk-foreign"), "{text}");
    });
}

#[test]
fn a_request_without_a_login_passes_and_so_does_one_with_harmless_cookies() {
    with_rig(Behaviour::default(), async |rig| {
        let mut client = rig.http1(API).await;
        for fields in [&[][..], &[("cookie", "__cf_bm=a; _cfuvid=b")]] {
            let response = client
                .send_request(get("/?key=cache-1", fields))
                .await
                .unwrap();
            assert_eq!(outcome(response).await.0, 200);
            client.ready().await.unwrap();
        }
    });
}

#[test]
fn the_user_can_allow_foreign_credentials_and_a_strangers_token_goes_as_it_is() {
    with_rig(Behaviour::default(), async |rig| {
        let open = rig.with_policy(Policy::public().allow_foreign_credentials());
        let mut client = http1(open.tls(API, &["http/1.1"]).await).await;
        let own = format!("Bearer {}", rig.oauth);
        let request = get("/", &[("authorization", &own), ("x-api-key", "sk-foreign")]);
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
        let seen = rig.upstream.only_request();
        assert_eq!(seen.header("x-api-key"), Some("sk-foreign"));
        let real = format!("Bearer {OAUTH_SECRET}");
        assert_eq!(seen.header("authorization"), Some(real.as_str()));
    });
}

#[test]
fn hosts_without_a_credential_take_any_login() {
    let plain = Behaviour {
        tls: false,
        ..Behaviour::default()
    };
    with_rig(plain, async |rig| {
        let (guest, _flow) = rig.open(FREE, 80).await;
        let mut client = http1(guest).await;
        let request = get("/", &[("host", FREE), ("authorization", "Bearer own")]);
        assert_eq!(
            outcome(client.send_request(request).await.unwrap()).await.0,
            200
        );
    });
}
