//! A connection to an API server, through a proxy if there is one.

use super::{Kind, Proxy};
use crate::cluster::kubeconfig::ApiServer;
use crate::cluster::tls;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head of a proxy's answer, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// A connection of any kind.
pub(in crate::cluster) trait Stream:
    AsyncRead + AsyncWrite + Send + Unpin
{
}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Stream for IO {}

/// Connects to `server`; the caller bounds the wait.
pub(in crate::cluster) async fn connect(
    server: &ApiServer,
    proxy: Option<&Proxy>,
) -> io::Result<Box<dyn Stream>> {
    let Some(proxy) = proxy else {
        return Ok(Box::new(dial(&server.host, server.port).await?));
    };
    let through = |error: io::Error| {
        io::Error::other(format!(
            "through the proxy {proxy}: {}",
            crate::cause(&error)
        ))
    };
    let connected = async {
        let tcp = dial(&proxy.host, proxy.port).await?;
        let mut io: Box<dyn Stream> = match proxy.kind {
            Kind::Https => Box::new(tls::to_proxy(tcp, &proxy.host).await?),
            Kind::Http | Kind::Socks5 => Box::new(tcp),
        };
        match proxy.kind {
            Kind::Socks5 => socks(&mut io, proxy, server).await?,
            Kind::Http | Kind::Https => tunnel(&mut io, proxy, server).await?,
        }
        Ok(io)
    };
    connected.await.map_err(through)
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks for a tunnel (RFC 9110, section 9.3.6).
async fn tunnel(io: &mut dyn Stream, proxy: &Proxy, server: &ApiServer) -> io::Result<()> {
    let authority = server.authority();
    let login = match &proxy.login {
        None => String::new(),
        Some((name, password)) => {
            let both = STANDARD.encode(format!("{name}:{password}"));
            format!("Proxy-Authorization: Basic {both}\r\n")
        }
    };
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head is the server's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(io::Error::other("its answer is too long"));
        }
        head.push(io.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..));
    match status {
        Some(status) if status.starts_with('2') => Ok(()),
        Some("") | None => Err(io::Error::other("it does not answer in HTTP")),
        Some(status) if status.starts_with("407") => Err(io::Error::other(
            "it asks who we are (407): put NAME:PASSWORD@ before its host",
        )),
        Some(status) => Err(io::Error::other(format!(
            "it refused with {}",
            crate::clean::clean(status)
        ))),
    }
}

/// Asks for a connection (RFC 1928 and 1929).
async fn socks(io: &mut dyn Stream, proxy: &Proxy, server: &ApiServer) -> io::Result<()> {
    let short = |text: &str| {
        u8::try_from(text.len()).map_err(|_| io::Error::other("a name is longer than 255 bytes"))
    };
    let methods: &[u8] = if proxy.login.is_some() {
        &[5, 2, 0, 2]
    } else {
        &[5, 1, 0]
    };
    io.write_all(methods).await?;
    io.flush().await?;
    let (version, method) = (io.read_u8().await?, io.read_u8().await?);
    match (version, method, &proxy.login) {
        (5, 0, _) => {}
        (5, 2, Some((name, password))) => {
            let mut login = vec![1, short(name)?];
            login.extend(name.as_bytes());
            login.push(short(password)?);
            login.extend(password.as_bytes());
            io.write_all(&login).await?;
            io.flush().await?;
            if (io.read_u8().await?, io.read_u8().await?) != (1, 0) {
                return Err(io::Error::other("it does not accept the name and password"));
            }
        }
        (5, ..) => {
            return Err(io::Error::other(
                "it wants to know who we are in another way",
            ));
        }
        _ => return Err(io::Error::other("it does not speak SOCKS 5")),
    }
    let mut request = vec![5, 1, 0];
    match server.host.parse() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Err(_) => {
            request.extend([3, short(&server.host)?]);
            request.extend(server.host.as_bytes());
        }
    }
    request.extend(server.port.to_be_bytes());
    io.write_all(&request).await?;
    io.flush().await?;
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    if head[1] != 0 {
        return Err(io::Error::other(format!(
            "it refused with SOCKS error {}",
            head[1]
        )));
    }
    let address = match head[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(io.read_u8().await?),
        _ => return Err(io::Error::other("it does not speak SOCKS 5")),
    };
    // Where it connects from, which is its own business.
    let mut rest = vec![0; address + 2];
    io.read_exact(&mut rest).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    fn server() -> ApiServer {
        ApiServer::parse("https://api.test:6443").expect("a server")
    }

    fn proxy(kind: Kind, login: bool) -> Proxy {
        Proxy {
            kind,
            host: "p".into(),
            port: 1,
            login: login.then(|| ("u".to_owned(), "pw".to_owned())),
        }
    }

    async fn read(io: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        io.read_exact(&mut bytes).await.expect("so much");
        bytes
    }

    #[tokio::test]
    async fn a_tunnel_leaves_what_follows_the_head() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let serve = async {
            let wanted = "CONNECT api.test:6443 HTTP/1.1\r\nHost: api.test:6443\r\nProxy-Authorization: Basic dTpwdw==\r\n\r\n";
            let came = read(&mut theirs, wanted.len()).await;
            assert_eq!(String::from_utf8_lossy(&came), wanted);
            theirs
                .write_all(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest")
                .await
                .expect("sent");
        };
        let (proxy, server) = (proxy(Kind::Http, true), server());
        let (done, ()) = tokio::join!(tunnel(&mut ours, &proxy, &server), serve);
        done.expect("a tunnel");
        assert_eq!(read(&mut ours, 4).await, b"rest");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_quoted() {
        for (answer, what) in [
            ("HTTP/1.1 403 No\x1b[2J\r\n\r\n", "refused with 403 No[2J"),
            ("HTTP/1.1 407 x\r\n\r\n", "asks who we are"),
            ("SSH-2.0\r\n\r\n", "not answer in HTTP"),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(answer.as_bytes()).await.expect("sent");
            let done = tunnel(&mut ours, &proxy(Kind::Http, false), &server()).await;
            assert!(done.expect_err(what).to_string().contains(what), "{answer}");
        }
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        theirs.write_all(&[b'x'; 20 * 1024]).await.expect("sent");
        let done = tunnel(&mut ours, &proxy(Kind::Http, false), &server()).await;
        assert!(done.expect_err("a flood").to_string().contains("too long"));
    }

    #[tokio::test]
    async fn socks_takes_the_name_and_a_login() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let serve = async {
            assert_eq!(read(&mut theirs, 4).await, [5, 2, 0, 2]);
            theirs.write_all(&[5, 2]).await.expect("sent");
            assert_eq!(read(&mut theirs, 6).await, b"\x01\x01u\x02pw");
            theirs.write_all(&[1, 0]).await.expect("sent");
            assert_eq!(
                read(&mut theirs, 15).await,
                b"\x05\x01\x00\x03\x08api.test\x19\x2b"
            );
            theirs
                .write_all(b"\x05\x00\x00\x03\x01x\x00\x00rest")
                .await
                .expect("sent");
        };
        let (proxy, server) = (proxy(Kind::Socks5, true), server());
        let (done, ()) = tokio::join!(socks(&mut ours, &proxy, &server), serve);
        done.expect("a connection");
        assert_eq!(read(&mut ours, 4).await, b"rest");
    }

    #[tokio::test]
    async fn socks_that_refuses_is_told() {
        for (answer, what) in [
            (&[4, 0][..], "not speak SOCKS 5"),
            (&[5, 0xff], "in another way"),
            (&[5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0], "SOCKS error 5"),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            theirs.write_all(answer).await.expect("sent");
            let done = socks(&mut ours, &proxy(Kind::Socks5, false), &server()).await;
            assert!(done.expect_err(what).to_string().contains(what));
        }
    }
}
