// Everything that happened, and happens, in JavaScript: sequence, type and body of each event.
//
//   npm install --prefix examples
//   node examples/consume_events.mjs DATA_DIR [COUNT]
//
// DATA_DIR is the one of `suite serve`, where `connection.json` says how to reach it. After COUNT events it
// ends, otherwise it goes on for ever, also over restarts of the service. The consumer is an ordered one: every
// event from the first on, in order and none twice, and nothing about it is kept on the server.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const [dataDir, count] = process.argv.slice(2);
if (dataDir === undefined) {
  console.error("usage: consume_events.mjs DATA_DIR [COUNT]");
  process.exit(2);
}
const found = JSON.parse(readFileSync(join(dataDir, "connection.json"), "utf8"));
const { url, subject_root = "suite" } = found;
const { user, password } = found.reader ?? found; // who reads the log is another user than who sends actions

// Without these it gives up after ten attempts, two seconds apart.
const nc = await connect({ servers: url, user, pass: password, maxReconnectAttempts: -1, reconnectTimeWait: 500 });

// suite.event.> is everything; suite.event.usage.> would be the generations alone. With `opt_start_seq: seq + 1`
// and `deliver_policy: "by_start_sequence"` it goes on after the last event that was seen.
const consumer = await jetstream(nc).consumers.get(subject_root.toUpperCase(), {
  filter_subjects: `${subject_root}.event.>`,
});
// After a restart of the service it asks for more when heartbeats are missing for `expires`: 30 s by default.
const messages = await consumer.consume({ expires: 2_000 });
let left = count === undefined ? Infinity : Number(count);
for await (const message of messages) {
  console.log(message.seq, message.headers.get("ce-type"), message.string());
  if (--left <= 0) break;
}
await nc.drain();
