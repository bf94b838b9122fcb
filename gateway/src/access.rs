//! What a user may do, as the cluster's own rules say.

use crate::identity::User;
use crate::kube::{self, Api, Ask, Verb};
use crate::request::{ForwardRequest, SLOT};
use crate::{GROUP, SUBRESOURCE, VERSION};
use serde::Deserialize;
use serde_json::json;
use sternline_api::{Failure, Reason};

/// The subresource whose creation is the permission to listen where others than
/// the pod can connect. Nothing is served there.
pub const WIDE: &str = "wideportforward";

/// Where the API server is asked what a user may.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Verdict,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Verdict {
    allowed: bool,
    denied: bool,
}

/// Checks that the user may do what is asked for: `create`, however the request
/// came. The API server checked the verb of its method, which of a WebSocket is
/// `get`: everybody who may look may send one.
///
/// # Errors
/// The user may not, or the API server does not say.
pub async fn check(api: &dyn Api, user: &User, asked: &ForwardRequest) -> Result<(), Failure> {
    let forward = may(api, user, asked, SUBRESOURCE);
    let wide = async {
        match asked.is_wide() {
            true => may(api, user, asked, WIDE).await,
            false => Ok(true),
        }
    };
    let (forward, wide) = tokio::join!(forward, wide);
    let refused = |reason, subresource: &str, hint: &str| {
        let ForwardRequest { namespace, pod, .. } = asked;
        Err(Failure::new(
            reason,
            format!(
                "{SLOT}.{GROUP} {pod:?} is forbidden: user {:?} cannot create resource \"{SLOT}/{subresource}\" in API group {GROUP:?} in the namespace {namespace:?}: {hint}",
                user.name
            ),
        ))
    };
    if !forward? {
        return refused(
            Reason::Forbidden,
            SUBRESOURCE,
            "ask for the role sternline-user there",
        );
    }
    if !wide? {
        return refused(
            Reason::WideBindDenied,
            WIDE,
            "listen on loopback, or ask for the role sternline-admin there",
        );
    }
    Ok(())
}

async fn may(
    api: &dyn Api,
    user: &User,
    asked: &ForwardRequest,
    subresource: &str,
) -> Result<bool, Failure> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user.name,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "resourceAttributes": {
                "namespace": asked.namespace,
                "verb": "create",
                "group": GROUP,
                "version": VERSION,
                "resource": SLOT,
                "subresource": subresource,
                "name": asked.pod,
            },
        },
    });
    let review: Review = kube::read(api, Ask::with(Verb::Create, REVIEWS, review)).await?;
    Ok(review.status.allowed && !review.status.denied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::fake::Fake;
    use serde_json::Value;

    fn user() -> User {
        User {
            name: "ada".to_owned(),
            uid: "7".to_owned(),
            groups: vec!["dev".to_owned()],
            extra: [("scopes".to_owned(), vec!["all".to_owned()])].into(),
        }
    }

    fn asked(query: &str) -> ForwardRequest {
        ForwardRequest::parse("shop", "web-0", query).expect(query)
    }

    /// Allows these subresources.
    fn allowing(subresources: &'static [&'static str]) -> Fake {
        let fake = Fake::default();
        fake.answers(REVIEWS, move |review| {
            let spec = &review["spec"];
            assert_eq!(spec["user"], "ada");
            assert_eq!(spec["uid"], "7");
            assert_eq!(spec["groups"], json!(["dev"]));
            assert_eq!(spec["extra"], json!({"scopes": ["all"]}));
            let asked = &spec["resourceAttributes"];
            let of = |field: &str| asked[field].as_str().expect("text").to_owned();
            assert_eq!(of("verb"), "create");
            assert_eq!(of("group"), "reverse.sternline.dev");
            assert_eq!(
                (of("namespace"), of("name")),
                ("shop".into(), "web-0".into())
            );
            assert_eq!(of("resource"), "pods");
            let allowed = subresources.contains(&of("subresource").as_str());
            json!({"status": {"allowed": allowed}})
        });
        fake
    }

    async fn reason(fake: &Fake, query: &str) -> Option<Reason> {
        let checked = check(fake, &user(), &asked(query)).await;
        checked.err().map(|failure| failure.reason)
    }

    #[tokio::test]
    async fn create_is_what_counts() {
        assert_eq!(reason(&allowing(&["portforward"]), "listen=80").await, None);
        assert_eq!(
            reason(&allowing(&[]), "listen=80").await,
            Some(Reason::Forbidden)
        );
    }

    #[tokio::test]
    async fn listening_wide_is_a_permission_of_its_own() {
        let (narrow, wide) = ("listen=80", "listen=80&listen=0.0.0.0:81");
        let user = allowing(&["portforward"]);
        assert_eq!(reason(&user, wide).await, Some(Reason::WideBindDenied));
        let admin = allowing(&["portforward", "wideportforward"]);
        assert_eq!(reason(&admin, wide).await, None);
        admin.asked();
        assert_eq!(reason(&admin, narrow).await, None);
        assert_eq!(admin.asked().len(), 1, "nothing is asked in vain");
        let odd = allowing(&["wideportforward"]);
        assert_eq!(
            reason(&odd, wide).await,
            Some(Reason::Forbidden),
            "both are needed"
        );
    }

    #[tokio::test]
    async fn whatever_is_no_yes_is_a_no() {
        for answer in [
            json!({"status": {"allowed": true, "denied": true}}),
            json!({"status": {}}),
            json!({}),
        ] {
            let fake = Fake::default();
            fake.answers(REVIEWS, move |_: &Value| answer.clone());
            assert_eq!(reason(&fake, "listen=80").await, Some(Reason::Forbidden));
        }
        let fake = Fake::default();
        fake.answers(REVIEWS, |_| json!({"status": "yes"}));
        assert_eq!(
            reason(&fake, "listen=80").await,
            Some(Reason::ClusterUnavailable)
        );
        fake.set_down(true);
        assert_eq!(
            reason(&fake, "listen=80").await,
            Some(Reason::ClusterUnavailable)
        );
    }

    #[tokio::test]
    async fn the_sentence_is_what_kubectl_users_know() {
        let failure = check(&allowing(&[]), &user(), &asked("listen=80")).await;
        let said = failure.expect_err("forbidden").message;
        let known = "pods.reverse.sternline.dev \"web-0\" is forbidden: user \"ada\" cannot create resource \"pods/portforward\" in API group \"reverse.sternline.dev\" in the namespace \"shop\"";
        assert!(said.starts_with(known), "{said}");
    }
}
