// A browser's own WebSocket: opens `url`, says `auth` and then `subscribe` when it is welcomed, and writes every
// message that comes as a line. `executable` is the browser.
import { chromium } from "playwright-core";

const { url, auth, subscribe, executable } = JSON.parse(process.argv[2]);
const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox"] });
try {
  const page = await browser.newPage();
  await page.exposeFunction("tell", (text) => process.stdout.write(text + "\n"));
  await page.evaluate(([url, auth, subscribe]) => {
    const socket = new WebSocket(url);
    socket.onopen = () => socket.send(JSON.stringify(auth));
    socket.onmessage = ({ data }) => {
      tell(data);
      if (JSON.parse(data).type === "welcome") socket.send(JSON.stringify(subscribe));
    };
    socket.onclose = ({ code, reason }) => tell(JSON.stringify({ type: "closed", code, reason }));
  }, [url, auth, subscribe]);
  process.stdin.resume();
  await new Promise((ended) => process.stdin.on("close", ended));
} finally {
  await browser.close();
}
