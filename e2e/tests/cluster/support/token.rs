//! Tokens of service accounts, signed with the cluster's own key: the API server
//! itself makes none that ends within ten minutes.

use super::cluster::Cluster;
use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey as _};
use serde_json::json;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of each of the two numbers of a signature on P-256.
const NUMBER: usize = 32;

/// A token of the default account of a namespace that ends, or ended, in so many
/// seconds.
///
/// # Errors
/// There is no such account, or nothing can be signed.
pub(crate) async fn ends_in(cluster: &Cluster, namespace: &str, seconds: i64) -> Result<String> {
    let words =
        format!("get serviceaccount default --namespace {namespace} -o jsonpath={{.metadata.uid}}");
    let uid = cluster.admin().run(&words).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = i64::try_from(now)?;
    let issuer = "https://kubernetes.default.svc";
    let claims = json!({
        "iss": issuer,
        "aud": [issuer],
        "sub": format!("system:serviceaccount:{namespace}:default"),
        "iat": now - 7200,
        "nbf": now - 7200,
        "exp": now + seconds,
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": { "name": "default", "uid": uid },
        },
    });
    let head = json!({ "alg": "ES256" });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&head), part(&claims));
    let key = fs::read_to_string(cluster.control().lock().await.token_key())?;
    let signature = KeyPair::from_pem(&key)?.sign(signed.as_bytes())?;
    let signature = plain(&signature).context("no signature on P-256")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The two numbers of a signature in ASN.1, one after the other, as JOSE has them.
fn plain(signature: &[u8]) -> Option<Vec<u8>> {
    let [0x30, _, rest @ ..] = signature else {
        return None;
    };
    let (first, rest) = number(rest)?;
    let (second, rest) = number(rest)?;
    rest.is_empty().then(|| [first, second].concat())
}

/// An integer in ASN.1 in as many bytes as it has in JOSE, and what follows it.
fn number(bytes: &[u8]) -> Option<([u8; NUMBER], &[u8])> {
    let [0x02, length, rest @ ..] = bytes else {
        return None;
    };
    let (digits, rest) = rest.split_at_checked(usize::from(*length))?;
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let digits = &digits[zeros..];
    let mut number = [0; NUMBER];
    number
        .get_mut(NUMBER.checked_sub(digits.len())?..)?
        .copy_from_slice(digits);
    Some((number, rest))
}
