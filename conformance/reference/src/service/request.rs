//! What a request has to be.

use super::{Service, fail};
use crate::node::{Asked, LIMITS};
use std::net::{IpAddr, Ipv4Addr};
use sternline_api::{
    Failure, Reason,
    v1alpha1::{self as pb, target::By},
};

impl Service {
    /// Checks a request; answers the sandbox that it names and what is to listen.
    pub(super) fn check(
        &self,
        request: &pb::ReversePortForwardRequest,
    ) -> Result<(String, Vec<Asked>), Failure> {
        let sandbox = match request
            .target
            .as_ref()
            .and_then(|target| target.by.as_ref())
        {
            Some(By::Pod(_)) if self.has("pod-invalid") => {
                return fail(Reason::InvalidRequest, "no pods");
            }
            Some(By::Pod(_)) => return fail(Reason::Forbidden, "pods are for gateways"),
            Some(By::SandboxId(id)) if !id.is_empty() => id.clone(),
            _ if self.has("missing-target-internal") => {
                return fail(Reason::Internal, "no sandbox");
            }
            _ => return fail(Reason::InvalidRequest, "the request names no sandbox"),
        };
        if request.requester.is_some() && !self.has("requester-honoured") {
            return fail(Reason::Forbidden, "a requester is for gateways");
        }
        if !request.grant.is_empty() && !self.has("grant-honoured") {
            return fail(Reason::Forbidden, "a grant is for gateways");
        }
        if request.listeners.is_empty() && !self.has("no-listeners-fine") {
            return fail(Reason::InvalidRequest, "the request has no listeners");
        }
        let most = LIMITS.listeners_per_session as usize;
        if request.listeners.len() > most && !self.has("ignores-listener-limit") {
            return fail(Reason::ListenerLimit, "too many listeners");
        }
        let options = request.options.clone().unwrap_or_default();
        if options.hold_ms > LIMITS.max_hold_ms && !self.has("hold-clamped") {
            return fail(Reason::InvalidRequest, "the hold is too long");
        }
        if options.labels.len() > 16 && !self.has("many-labels") {
            return fail(Reason::InvalidRequest, "too many labels");
        }
        let wrong = |(key, value): (&String, &String)| {
            key.is_empty() || key.len() > 63 || value.len() > 253
        };
        if options.labels.iter().any(wrong) && !self.has("long-labels") {
            return fail(Reason::InvalidRequest, "a label is too long");
        }
        let mut asked: Vec<Asked> = Vec::new();
        for (id, listener) in (0..).zip(&request.listeners) {
            let one = self.listener(id, listener)?;
            let clash = asked.iter().any(|other| {
                let overlap = match (one.ip, other.ip) {
                    (Some(a), Some(b)) => {
                        a == b
                            || a.is_ipv4() == b.is_ipv4()
                                && (a.is_unspecified() || b.is_unspecified())
                    }
                    (None, None) => true,
                    (Some(ip), None) | (None, Some(ip)) => {
                        ip.is_unspecified()
                            || ip == Ipv4Addr::LOCALHOST
                            || ip.is_ipv6() && ip.is_loopback()
                    }
                };
                let same = one.port == other.port;
                match one.port {
                    0 => {
                        self.has("zero-collides") && same && one.ip.is_some() && one.ip == other.ip
                    }
                    _ => same && overlap,
                }
            });
            if clash && !self.has("collision-unchecked") {
                return fail(Reason::InvalidRequest, "two listeners collide");
            }
            asked.push(one);
        }
        Ok((sandbox, asked))
    }

    fn listener(&self, id: u32, listener: &pb::Listener) -> Result<Asked, Failure> {
        let tcp = match listener.protocol {
            0 => !self.has("unset-protocol-refused"),
            1 => true,
            _ => self.has("any-protocol"),
        };
        if !tcp {
            return fail(Reason::InvalidRequest, "not TCP");
        }
        let port = match u16::try_from(listener.port) {
            Ok(port) => port,
            Err(_) if self.has("port-wraps") => u16::try_from(listener.port % 65_536).unwrap_or(0),
            Err(_) => return fail(Reason::InvalidRequest, "no such port"),
        };
        let ip = match listener.address.parse::<IpAddr>() {
            _ if listener.address.is_empty() => None,
            Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
                match self.has("mapped-unmapped") {
                    true => v6.to_ipv4_mapped().map(IpAddr::V4),
                    false => return fail(Reason::InvalidRequest, "a mapped address"),
                }
            }
            Ok(ip) => Some(ip),
            Err(_) if self.has("names-are-loopback") => None,
            Err(_) => return fail(Reason::InvalidRequest, "not an IP address"),
        };
        let wide = ip.is_some_and(|ip| !ip.is_loopback());
        if wide && !self.0.extras {
            match self.has("wide-allowed-anyway") {
                true => return Ok(Asked { id, ip: None, port }),
                false => {
                    return fail(
                        Reason::WideBindDenied,
                        "addresses beyond loopback are not allowed",
                    );
                }
            }
        }
        Ok(Asked { id, ip, port })
    }
}
