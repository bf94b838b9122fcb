//! A Unix socket that keeps packets apart (`SOCK_SEQPACKET`) and carries
//! descriptors.

use super::wire::{MAX_DESCRIPTORS, MAX_PACKET};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Room for as many descriptors as the kernel ever delivers at once, so that
/// none is lost without a sign.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// One end of a connection. All methods may be called at the same time; packets
/// go out and come in whole.
#[derive(Debug)]
// A stream by its type alone: only what the runtime does for any socket is used.
pub struct Channel(UnixStream);

/// One packet.
#[derive(Debug)]
pub struct Packet {
    /// What it says.
    pub bytes: Vec<u8>,
    /// What came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Whether descriptors were lost on the way: this process has no room for
    /// them.
    pub lost: bool,
}

impl Channel {
    /// Over a connected socket, which is made non-blocking. To be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// The runtime does not take it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody is there, or this process may not.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        // Done at once or not at all: a full queue is an error here.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Sends one packet, and waits while the other end does not read.
    ///
    /// # Errors
    /// The other end is gone, or the packet is too large for the kernel.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || send_now(&self.0, bytes, descriptors);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Sends one packet if the kernel takes it at once.
    ///
    /// # Errors
    /// As [`Channel::send`], and when it would have to wait.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<()> {
        send_now(&self.0, bytes, &[])
    }

    /// Waits for the next packet; `None` when the other end closed. Cancel safe.
    ///
    /// # Errors
    /// The connection broke, or a packet was cut off; its descriptors are closed.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        self.0
            .async_io(Interest::READABLE, || receive_now(&self.0))
            .await
    }
}

impl From<UnixStream> for Channel {
    fn from(accepted: UnixStream) -> Self {
        Self(accepted)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send_now(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one packet"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

fn receive_now(socket: &UnixStream) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; MAX_PACKET];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(socket, slices, &mut control, flags)?;
    // Taken over before anything else, so that they are closed on every way out.
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let lost = got.flags.contains(ReturnFlags::CTRUNC);
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a packet is longer than any may be",
        ));
    }
    if got.bytes == 0 && descriptors.is_empty() && !lost {
        return Ok(None);
    }
    bytes.truncate(got.bytes);
    bytes.shrink_to_fit();
    Ok(Some(Packet {
        bytes,
        descriptors,
        lost,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read as _;

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (a, b) = pair.expect("pair");
        (
            Channel::new(a).expect("ours"),
            Channel::new(b).expect("ours"),
        )
    }

    #[tokio::test]
    async fn packets_stay_apart_and_descriptors_arrive() {
        let (a, b) = pair();
        let (mut read, write) = io::pipe().expect("pipe");
        a.send(b"one", &[write.as_fd()]).await.expect("sent");
        a.send(b"two", &[]).await.expect("sent");
        drop((a, write));
        let first = b.receive().await.expect("received").expect("a packet");
        assert_eq!(
            (first.bytes.as_slice(), first.descriptors.len()),
            (&b"one"[..], 1)
        );
        let second = b.receive().await.expect("received").expect("a packet");
        assert_eq!(
            (second.bytes.as_slice(), second.descriptors.len()),
            (&b"two"[..], 0)
        );
        assert!(b.receive().await.expect("received").is_none());
        drop(first);
        assert_eq!(
            read.read(&mut [0]).expect("read"),
            0,
            "the last writer is gone"
        );
    }

    #[tokio::test]
    async fn a_packet_that_is_too_long_is_an_error_and_costs_no_descriptor() {
        let (a, b) = pair();
        let (mut read, write) = io::pipe().expect("pipe");
        let long = vec![1; MAX_PACKET + 1];
        a.send(&long, &[write.as_fd(); 9]).await.expect("sent");
        drop(write);
        let error = b.receive().await.expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(read.read(&mut [0]).expect("read"), 0, "none is left open");
    }

    #[tokio::test]
    async fn as_many_descriptors_as_the_kernel_allows_go_in_one_packet() {
        let (a, b) = pair();
        let file = File::open("/dev/null").expect("open");
        let many = [file.as_fd(); MAX_DESCRIPTORS];
        a.send(b"many", &many).await.expect("sent");
        let packet = b.receive().await.expect("received").expect("a packet");
        assert_eq!(packet.descriptors.len(), MAX_DESCRIPTORS);
        let more = [file.as_fd(); MAX_DESCRIPTORS + 1];
        a.send(b"more", &more).await.expect_err("refused");
    }
}
