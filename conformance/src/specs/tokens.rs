//! The life of a token (§2.6).

use crate::{
    context::{Context, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, skip},
};
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "token.strength", "2.6", [], "A token has at least 128 bits, in characters that need no escaping.", strength),
    spec!(required "token.once", "2.6", [], "A token works once.", once),
    spec!(required "token.kept-on-version", "2.6", [], "A request that names no common version leaves the token unconsumed.", kept_on_version),
    spec!(required "token.kept-without-upgrade", "2.6", [], "A request that is no Upgrade leaves the token unconsumed.", kept_without_upgrade),
    spec!(required "token.expires", "2.6", ["slow"], "A token does not work after limits.token_ttl_ms.", expires),
    spec!(required "token.expiry-frees", "2.6", ["slow"], "When a token expires, the session's listeners are freed.", expiry_frees),
    spec!(required "token.limit", "2.6", ["slow", "serial"], "One token more than limits.tokens_in_flight fails with token_limit; none is evicted.", limit),
];

async fn strength(context: &Context) -> Step {
    let pod = context.pod().await?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
        let token = opened.place.token().to_owned();
        let plain = token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
        // 64 characters to choose from: 6 bits each; 16 in hexadecimal: 4.
        let hex = token.bytes().all(|b| b.is_ascii_hexdigit());
        let bits = token.len() * if hex { 4 } else { 6 };
        check(plain, "characters that need no escaping", &token)?;
        check(bits >= 128, "at least 128 bits", format!("{bits} at most"))?;
        seen.push(token);
    }
    check(seen[0] != seen[1], "tokens that differ", &seen[0])
}

async fn once(context: &Context) -> Step {
    let forward = context.forward().await?;
    let place = &forward.opened.place;
    let answer = place.ask(place.raw().as_bytes(), context.patience).await?;
    context.step(format!("used the token again: {}", answer.status));
    check(answer.status == 404, "404", answer.status)?;
    let reason = answer.refusal(context.patience).await?["reason"].clone();
    check(reason == "token_unknown", "token_unknown", reason)?;
    forward.tunnel.alive().await
}

/// After this request the token still has to work.
async fn kept(context: &Context, fields: &[(&str, &str)]) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let request = opened.place.request(fields);
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?;
    context.step(format!("refused with {}", answer.status));
    let tunnel = context.redeem(&opened.place).await?;
    tunnel.control().await?.ready().await.map(drop)
}

async fn kept_on_version(context: &Context) -> Step {
    let other = ("Sternline-Protocol", "v9.reverse.sternline.dev");
    kept(
        context,
        &[("Connection", "Upgrade"), ("Upgrade", "sternline"), other],
    )
    .await
}

async fn kept_without_upgrade(context: &Context) -> Step {
    kept(context, &[("Accept", "*/*")]).await
}

async fn expires(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let ttl = Duration::from_millis(context.limits().token_ttl_ms);
    tokio::time::sleep(ttl + Duration::from_millis(200)).await;
    let place = &opened.place;
    let answer = place.ask(place.raw().as_bytes(), context.patience).await?;
    check(
        answer.status == 404,
        "404 for an expired token",
        answer.status,
    )
}

async fn expiry_frees(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let ttl = Duration::from_millis(context.limits().token_ttl_ms);
    for address in opened.addresses() {
        context
            .freed(&pod, address, ttl + Duration::from_secs(5))
            .await?;
    }
    Ok(())
}

async fn limit(context: &Context) -> Step {
    let limits = context.limits();
    if limits.tokens_in_flight >= limits.sessions_per_node {
        return skip("limits.sessions_per_node is reached first");
    }
    if limits.tokens_in_flight > 4000 {
        return skip(format!(
            "{} tokens are too many to try",
            limits.tokens_in_flight
        ));
    }
    // Before the first token: making sandboxes may take longer than one lives.
    let per_pod = limits.sessions_per_sandbox.max(1);
    let mut pods = Vec::new();
    for _ in 0..=limits.tokens_in_flight / per_pod {
        pods.push(context.pod().await?);
    }
    // On a machine without time the first may be over before the last is there.
    let life = Duration::from_millis(limits.token_ttl_ms);
    let mut first = None;
    for attempt in 1.. {
        let begun = Instant::now();
        let mut opened = None;
        for number in 0..limits.tokens_in_flight {
            let pod = &pods[(number / per_pod) as usize];
            let answer = context.open(pod, &[tcp("127.0.0.1", 0)]).await?;
            opened.get_or_insert(answer);
        }
        if begun.elapsed() < life / 2 {
            first = opened;
            break;
        }
        if attempt == 5 {
            return skip("making as many tokens takes longer than they live");
        }
        context.step("that took too long: waits until all of them expired");
        tokio::time::sleep(life * 2).await;
    }
    let pod = &pods[(limits.tokens_in_flight / per_pod) as usize];
    let more = crate::context::request(&pod.id, &[tcp("127.0.0.1", 0)]);
    context
        .refused(more, Code::ResourceExhausted, "token_limit")
        .await?;
    match first {
        Some(opened) => context.redeem(&opened.place).await.map(drop),
        None => Ok(()),
    }
}
