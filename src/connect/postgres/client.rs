//! A connection to PostgreSQL on which nothing is waited for without a deadline.
//!
//! A server that is frozen, or one behind a cut network, keeps its connections open and answers nothing; the
//! kernel sees no fault in that. So every request has a deadline here. When it has passed, the connection is
//! dropped, the request fails, and the next attempt connects anew.

use std::io;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use refinery::{Report, Runner};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, CopyInSink, Error, Row, Socket, Statement, ToStatement};

use crate::connect::trials::Wait;

/// How long changes of the tables may take: they may rewrite every row.
const MIGRATION: Duration = Duration::from_secs(3600);

/// How much of a COPY is sent at once. A message may have one GB at most.
const PIECE: usize = 1 << 20;

/// A parameter of a statement.
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection. Each call has a deadline of its own, the same for all.
pub struct Client {
    inner: tokio_postgres::Client,
    wire: Wire,
}

/// A transaction on a connection. It is rolled back when it is dropped, unless it was committed.
pub struct Transaction<'a> {
    inner: tokio_postgres::Transaction<'a>,
    wire: &'a Wire,
}

/// What moves the bytes, for as long as somebody waits for them.
struct Wire {
    /// For messages: which server this is.
    place: String,
    runtime: Runtime,
    connection: JoinHandle<()>,
    patience: Duration,
}

/// What a connection and a transaction on it both can do.
macro_rules! requests {
    () => {
        /// See [`tokio_postgres::Client::batch_execute`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
            self.wire.wait(self.inner.batch_execute(sql))
        }

        /// See [`tokio_postgres::Client::prepare`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
            self.wire.wait(self.inner.prepare(sql))
        }

        /// See [`tokio_postgres::Client::execute`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn execute(
            &mut self,
            sql: &(impl ?Sized + ToStatement),
            parameters: Parameters<'_>,
        ) -> Result<u64, Error> {
            self.wire.wait(self.inner.execute(sql, parameters))
        }

        /// See [`tokio_postgres::Client::query`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn query(
            &mut self,
            sql: &(impl ?Sized + ToStatement),
            parameters: Parameters<'_>,
        ) -> Result<Vec<Row>, Error> {
            self.wire.wait(self.inner.query(sql, parameters))
        }

        /// See [`tokio_postgres::Client::query_one`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn query_one(
            &mut self,
            sql: &(impl ?Sized + ToStatement),
            parameters: Parameters<'_>,
        ) -> Result<Row, Error> {
            self.wire.wait(self.inner.query_one(sql, parameters))
        }

        /// See [`tokio_postgres::Client::query_opt`].
        ///
        /// # Errors
        /// See [`Client::transaction`].
        pub fn query_opt(
            &mut self,
            sql: &(impl ?Sized + ToStatement),
            parameters: Parameters<'_>,
        ) -> Result<Option<Row>, Error> {
            self.wire.wait(self.inner.query_opt(sql, parameters))
        }
    };
}

impl Client {
    /// Connects within `connecting`, which covers TCP, TLS and the login; None if that passes. Requests then
    /// have `patience` each. `place` is what messages call the server.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) fn connect<T>(
        config: &Config,
        tls: T,
        place: String,
        connecting: Duration,
        patience: Duration,
    ) -> io::Result<Option<Result<Client, Error>>>
    where
        T: MakeTlsConnect<Socket> + Send + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connected = runtime.block_on(async { timeout(connecting, config.connect(tls)).await });
        Ok(match connected {
            Ok(Ok((inner, connection))) => {
                // Its end shows in the requests.
                let connection = runtime.spawn(async { drop(connection.await) });
                Some(Ok(Client { inner, wire: Wire { place, runtime, connection, patience } }))
            }
            Ok(Err(error)) => Some(Err(error)),
            Err(_) => {
                // A thread may still be asking for the host's address.
                runtime.shutdown_background();
                None
            }
        })
    }

    /// Whether it is known to be broken.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As all of these: the server refuses, the connection is broken, or the deadline has passed.
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let inner = self.wire.wait(self.inner.transaction())?;
        Ok(Transaction { inner, wire: &self.wire })
    }

    requests!();

    /// Calls `each` with every row, as they come. The deadline is that of one row.
    ///
    /// # Errors
    /// See [`Client::transaction`].
    pub fn each_row(&mut self, sql: &str, mut each: impl FnMut(Row)) -> Result<(), Error> {
        let rows = self.wire.wait(self.inner.query_raw(sql, NONE))?;
        let mut rows = pin!(rows);
        while let Some(row) = self.wire.wait(rows.next()) {
            each(row?);
        }
        Ok(())
    }

    /// Changes the tables, within an hour.
    ///
    /// # Errors
    /// See [`Runner::run_async`].
    pub fn migrate(&mut self, runner: &Runner) -> Result<Report, refinery::Error> {
        self.wire.wait_for(MIGRATION, runner.run_async(&mut self.inner))
    }
}

/// The parameters of a statement that has none.
const NONE: [&str; 0] = [];

impl Transaction<'_> {
    /// Commits it.
    ///
    /// # Errors
    /// See [`Client::transaction`]. Whether it was committed is then unknown, unless the server has answered.
    pub fn commit(self) -> Result<(), Error> {
        self.wire.wait(self.inner.commit())
    }

    requests!();

    /// Sends rows in the text format of COPY to a `COPY ... FROM STDIN`. The deadline is that of each piece
    /// of them.
    ///
    /// # Errors
    /// See [`Client::transaction`].
    pub fn copy_in(&mut self, statement: &Statement, rows: &str) -> Result<(), Error> {
        let sink: CopyInSink<Bytes> = self.wire.wait(self.inner.copy_in(statement))?;
        let mut sink: Pin<&mut CopyInSink<Bytes>> = pin!(sink);
        for piece in rows.as_bytes().chunks(PIECE) {
            self.wire.wait(sink.send(Bytes::copy_from_slice(piece)))?;
        }
        self.wire.wait(sink.finish()).map(drop)
    }
}

impl Wire {
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.wait_for(self.patience, answer)
    }

    /// Waits for an answer. When `patience` has passed, it drops the connection, by which every request on it
    /// fails.
    fn wait_for<T>(&self, patience: Duration, answer: impl Future<Output = T>) -> T {
        let asked = Instant::now();
        let mut answer = pin!(answer);
        let mut wait = Wait::new(&self.place);
        self.runtime.block_on(async {
            loop {
                match timeout(Wait::LOOK, answer.as_mut()).await {
                    Ok(answer) => {
                        wait.answered();
                        return answer;
                    }
                    Err(_) if asked.elapsed() < patience => wait.look(),
                    Err(_) => {
                        self.connection.abort();
                        return answer.await;
                    }
                }
            }
        })
    }
}
