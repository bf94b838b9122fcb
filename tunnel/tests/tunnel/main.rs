//! Stories of tunnels over an in-memory pipe: both ends real, or one of them a
//! peer that breaks rules which a well-behaved HTTP/2 library would not let it
//! break.

mod budgets;
mod control;
mod flow;
mod hostile;
mod keepalive;
mod lifecycle;
mod refusals;
mod resets;
mod small;
mod strays;
mod streams;
mod support;
mod websocket;
