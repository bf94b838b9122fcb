use super::*;
use crate::kube::fake::Fake;

const SECRET: &str = "/api/v1/namespaces/sternline/secrets/sternline-authority";
const MAP: &str = "/api/v1/namespaces/sternline/configmaps/sternline-authority";
const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.reverse.sternline.dev";

const SECOND: Duration = Duration::from_secs(1);

const SHORT: Lifetimes = Lifetimes {
    root: Duration::from_secs(30),
    overlap: Duration::from_secs(10),
    leaf: Duration::from_secs(6),
};

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// As it is installed: everything is there, and empty.
fn installed() -> Arc<Fake> {
    let fake = Fake::default();
    for path in [SECRET, MAP] {
        fake.put(
            path,
            json!({"metadata": {"resourceVersion": "7", "labels": {"a": "b"}}}),
        );
    }
    fake.put(
        SERVICE,
        json!({"metadata": {"resourceVersion": "7"}, "spec": {"groupPriorityMinimum": 1000}}),
    );
    Arc::new(fake)
}

fn keeper(fake: &Arc<Fake>) -> Keeper {
    let shelf = Shelf {
        namespace: "sternline".to_owned(),
        name: "sternline-authority".to_owned(),
        names: vec!["sternline-gateway.sternline.svc".to_owned()],
    };
    Keeper::new(Arc::clone(fake) as Arc<dyn Api>, shelf, SHORT)
}

fn bundle(keeper: &Keeper) -> String {
    let material = keeper.material().borrow().clone();
    material.expect("there").ring.bundle()
}

fn chain(keeper: &Keeper) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let material = keeper.material().borrow().clone();
    material.expect("there").chain().to_vec()
}

#[tokio::test]
async fn the_first_fills_everything_and_the_second_reads_it() {
    let fake = installed();
    let (first, second) = (keeper(&fake), keeper(&fake));
    first.tend(start()).await.expect("kept");
    second.tend(start()).await.expect("kept");
    assert_eq!(bundle(&first), bundle(&second));
    assert_ne!(chain(&first), chain(&second), "each has a key of its own");
    assert_eq!(fake.object(MAP)["data"][BUNDLE], bundle(&first));
    let shown = BASE64_STANDARD.encode(bundle(&first));
    let service = fake.object(SERVICE);
    assert_eq!(service["spec"]["caBundle"], shown);
    assert_eq!(service["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(fake.object(SECRET)["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn of_many_that_begin_at_once_one_wins() {
    let fake = installed();
    let all: Vec<Keeper> = (0..4).map(|_| keeper(&fake)).collect();
    let (a, b, c, d) = tokio::join!(
        all[0].tend(start()),
        all[1].tend(start()),
        all[2].tend(start()),
        all[3].tend(start())
    );
    for tended in [a, b, c, d] {
        tended.expect("kept");
    }
    let first = bundle(&all[0]);
    assert!(all.iter().all(|one| bundle(one) == first));
    let writes = fake.asked();
    let writes = writes
        .iter()
        .filter(|ask| **ask == format!("Replace {SECRET}"));
    assert!(writes.count() > 1, "they did begin at once");
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let fake = installed();
    let keeper = keeper(&fake);
    keeper.tend(start()).await.expect("kept");
    fake.asked();
    keeper.tend(start() + SECOND).await.expect("kept");
    let asked = fake.asked();
    assert!(asked.iter().all(|ask| ask.starts_with("Get ")), "{asked:?}");
}

#[tokio::test]
async fn everything_is_renewed_while_it_runs() {
    let fake = installed();
    let keeper = keeper(&fake);
    let (mut bundles, mut chains) = (Vec::new(), Vec::new());
    for seconds in 0..60 {
        let now = start() + SECOND * seconds;
        keeper.tend(now).await.expect("kept");
        let material = keeper.material().borrow().clone().expect("there");
        assert!(material.until() > now + SECOND, "second {seconds}");
        bundles.push(bundle(&keeper));
        chains.push(chain(&keeper));
        assert_eq!(fake.object(MAP)["data"][BUNDLE], bundle(&keeper));
    }
    bundles.dedup();
    chains.dedup();
    assert!(bundles.len() >= 4, "only {}", bundles.len());
    assert!(chains.len() >= 12, "only {}", chains.len());
}

#[tokio::test]
async fn what_others_took_away_is_put_back() {
    let fake = installed();
    let keeper = keeper(&fake);
    keeper.tend(start()).await.expect("kept");
    let first = bundle(&keeper);
    fake.put(
        MAP,
        json!({"metadata": {"resourceVersion": "1"}, "data": {BUNDLE: "other"}}),
    );
    keeper.tend(start()).await.expect("kept");
    assert_eq!(fake.object(MAP)["data"][BUNDLE], first);

    fake.put(SECRET, json!({"metadata": {"resourceVersion": "1"}}));
    keeper.tend(start()).await.expect("kept");
    let second = bundle(&keeper);
    assert_ne!(first, second, "an emptied Secret is a new authority");
    assert_eq!(fake.object(MAP)["data"][BUNDLE], second);
    let material = keeper.material().borrow().clone().expect("there");
    assert!(
        !material.is_due(&material.ring, start()),
        "and a new certificate"
    );
}

#[tokio::test]
async fn what_is_missing_is_named_and_what_was_there_stays() {
    let fake = installed();
    fake.remove(SECRET);
    let keeper = keeper(&fake);
    let said = keeper
        .tend(start())
        .await
        .expect_err("no Secret")
        .to_string();
    assert!(said.contains("Secret") && said.contains("404"), "{said}");
    assert!(keeper.material().borrow().is_none());

    fake.put(SECRET, json!({"metadata": {"resourceVersion": "1"}}));
    fake.remove(SERVICE);
    let said = keeper.tend(start()).await.expect_err("no APIService");
    assert!(said.to_string().contains("APIService"), "{said}");
    assert!(
        keeper.material().borrow().is_some(),
        "it serves all the same"
    );

    fake.set_down(true);
    let before = chain(&keeper);
    keeper.tend(start()).await.expect_err("down");
    assert_eq!(chain(&keeper), before);
}

#[tokio::test]
async fn a_secret_with_something_else_is_left_alone() {
    let fake = installed();
    let other = json!({"metadata": {"resourceVersion": "1"}, "data": {"password": "?"}});
    fake.put(SECRET, other.clone());
    let said = keeper(&fake).tend(start()).await.expect_err("not ours");
    assert!(said.to_string().contains("password"), "{said}");
    assert_eq!(fake.object(SECRET), other);
}

#[test]
fn it_is_looked_after_often_enough_for_its_lifetimes() {
    let fake = installed();
    assert_eq!(keeper(&fake).every(), Duration::from_millis(500));
    let days = Keeper {
        lifetimes: Lifetimes::default(),
        ..keeper(&fake)
    };
    assert_eq!(days.every(), SELDOM);
}
