// Drives the clients' own libraries. Reads one JSON command per line, writes one JSON line per thing that
// happened. What a test wants to know is decided in Python; nothing is checked here.
import readline from "node:readline";
import Echo from "laravel-echo";
import PusherServer from "pusher";
import PusherJs from "pusher-js";

const tell = (happened) => process.stdout.write(JSON.stringify(happened) + "\n");
const channels = new Map();
let echo = null;
let pusher = null;
let server = null;

function watch(client) {
  client.connection.bind("state_change", ({ current }) =>
    tell({ is: "state", state: current, socket_id: client.connection.socket_id }));
  client.connection.bind("error", (error) => tell({ is: "error", error: error.data ?? error.error ?? error }));
}

const commands = {
  // `resume`: the line of the documentation, as it stands there.
  echo({ options, resume }) {
    echo = new Echo({ ...options, Pusher: PusherJs });
    pusher = echo.connector.pusher;
    watch(pusher);
    if (resume) new Function("echo", resume)(echo);
  },
  pusher({ key, options }) {
    pusher = new PusherJs(key, options);
    watch(pusher);
  },
  private({ channel, events }) {
    const subscribed = echo.private(channel);
    channels.set(channel, subscribed);
    follow(subscribed, `private-${channel}`, events);
  },
  join({ channel, events }) {
    const name = `presence-${channel}`;
    const subscribed = echo.join(channel)
      .here((members) => tell({ is: "here", channel: name, members }))
      .joining((member) => tell({ is: "joining", channel: name, member }))
      .leaving((member) => tell({ is: "leaving", channel: name, member }));
    channels.set(channel, subscribed);
    follow(subscribed, name, events);
  },
  channel({ channel, events }) {
    follow(echo.channel(channel), channel, events);
  },
  subscribe({ channel }) {
    pusher.subscribe(channel).bind_global((event, data) => tell({ is: "event", channel, event, data }));
  },
  hear({ channel, whisper }) {
    channels.get(channel).listenForWhisper(whisper, (data) => tell({ is: "whisper", channel, whisper, data }));
  },
  whisper({ channel, whisper, data }) {
    channels.get(channel).whisper(whisper, data);
  },
  leave({ channel }) {
    echo.leave(channel);
  },
  connect() {
    pusher.connect();
  },
  disconnect() {
    pusher.disconnect();
  },
  server({ config }) {
    server = new PusherServer(config);
  },
  async trigger({ channels, event, data, params }) {
    await answered(server.trigger(channels, event, data, params));
  },
  async batch({ batch }) {
    await answered(server.triggerBatch(batch));
  },
  async get({ path, params }) {
    await answered(server.get({ path, params }));
  },
};

function follow(subscribed, channel, events) {
  subscribed.subscribed(() => tell({ is: "subscribed", channel }));
  subscribed.error((error) => tell({ is: "refused", channel, error }));
  for (const event of events ?? []) {
    subscribed.listen(event, (data) => tell({ is: "event", channel, event, data }));
  }
}

async function answered(call) {
  try {
    const response = await call;
    tell({ is: "answer", status: response.status, body: await response.json() });
  } catch (error) {
    tell({ is: "answer", status: error.status ?? 0, body: error.body ?? String(error) });
  }
}

readline.createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { do: name, ...rest } = JSON.parse(line);
    commands[name](rest);
  })
  .on("close", () => process.exit(0));
tell({ is: "ready" });
