// The page's camera goes to the server by WebRTC, and composites come back that way. Until it is connected, and where it
// cannot be, both go as JPEGs over the WebSocket that also carries the messages.
const UNREACHED = 10000; // milliseconds after which WebRTC is given up
const UNDER_WAY = 3; // frames that may be on their way at a time: more would only wait
const LONGER = 640; // pixels of a frame's longer side
const QUALITY = 0.85;
const $ = (id) => document.getElementById(id);

const camera = $("camera");
const result = $("result");
const drawn = $("drawn");
const picture = drawn.getContext("2d", { alpha: false });
const grab = document.createElement("canvas");
const taken = grab.getContext("2d", { alpha: false });

let stream = null; // of the camera
let socket = null;
let peer = null; // the connection by WebRTC, which may not be there yet
let byPeer = false; // whether composites come by it
let before = null; // its counts of a second ago
let run = 0; // counts starts, so that what is late from an earlier one is ignored
let number = 0;
let sent = new Map(); // moment of capture by number
let lastShown = 0;
let delays = [];
let recorder = null;
let retry = 500;
let upload = null; // {background, url} of the visitor's own picture

// #only is for a browser source in OBS: nothing but the composite, which starts by itself; #only=gallery:beach as well
// says what is behind.
const [, only, behind] = /^#(only)(?:=(.+))?$/.exec(location.hash) ?? [];

$("where").textContent = location.hostname;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function cover(text) {
  // What was shown last does not stay behind a message.
  $("cover-text").textContent = text;
  $("cover").hidden = false;
}

// --- backgrounds

function chosen() {
  if (behind) return decodeURIComponent(behind);
  const value = document.querySelector("input[name=background]:checked").value;
  if (value === "blur") return `blur:${$("blur").value}`;
  if (value === "color") return $("color").value;
  return value;
}

function changed() {
  $("blur-value").textContent = $("blur").value;
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ background: chosen() }));
}

function option(value, title, source) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "background", value });
  const image = Object.assign(document.createElement("img"), { src: source, alt: "" });
  const text = Object.assign(document.createElement("span"), { textContent: title });
  input.addEventListener("change", changed);
  label.append(input, image, text);
  $("gallery").append(label);
  return input;
}

async function fillGallery() {
  const answer = await fetch("/v1/backgrounds");
  for (const one of await answer.json()) option(one.background, one.title, one.picture);
}

async function problem(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the server answers ${answer.status}`;
  }
}

$("upload").addEventListener("change", async () => {
  const file = $("upload").files[0];
  if (!file) return;
  say("Sending your picture …");
  try {
    const answer = await fetch("/v1/backgrounds", { method: "POST", body: file });
    if (!answer.ok) throw new Error(await problem(answer));
    const { background } = await answer.json();
    forget();
    const url = URL.createObjectURL(file);
    const input = option(background, "Yours", url);
    upload = { background, url, label: input.parentElement };
    input.checked = true;
    changed();
    say("Your picture is the background.");
  } catch (error) {
    say(`Your picture cannot be the background: ${error.message}`, true);
  }
});

function forget() {
  if (!upload) return;
  fetch(`/v1/backgrounds/${upload.background.slice(7)}`, { method: "DELETE", keepalive: true });
  URL.revokeObjectURL(upload.url);
  upload.label.remove();
  upload = null;
}
addEventListener("pagehide", forget);

for (const id of ["use-blur", "use-color"]) $(id).addEventListener("change", changed);
$("blur").addEventListener("input", () => { $("use-blur").checked = true; changed(); });
$("color").addEventListener("input", () => { $("use-color").checked = true; changed(); });

// --- camera

$("start").addEventListener("click", () => (stream ? stop("The camera is off.") : start()));

async function start() {
  if (!navigator.mediaDevices) {
    say("This browser gives its camera only to pages from localhost or by HTTPS.", true);
    return;
  }
  $("start").disabled = true;
  say("Asking for the camera …");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } } });
  } catch (error) {
    say(error.name === "NotAllowedError" ? "The camera is not allowed for this page; allow it beside the address." : `There is no camera: ${error.message}`, true);
    return;
  } finally {
    $("start").disabled = false;
  }
  stream.getVideoTracks()[0].addEventListener("ended", () => stop("The camera has gone."));
  camera.srcObject = stream;
  await camera.play();
  $("start").textContent = "Stop the camera";
  cover("One moment …");
  connect();
  next(++run);
}

function stop(text) {
  run++;
  stopRecording();
  hangUp();
  stream?.getTracks().forEach((track) => track.stop());
  stream = camera.srcObject = null;
  socket?.close();
  socket = null;
  $("start").textContent = "Start the camera";
  $("record").disabled = true;
  for (const id of ["fps", "latency", "server", "cpu", "dropped", "way"]) $(id).textContent = "–";
  cover("Start the camera to see yourself here.");
  say(text);
}

function connect() {
  const address = new URL(`/v1/live?background=${encodeURIComponent(chosen())}`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const mine = (socket = new WebSocket(address));
  mine.binaryType = "arraybuffer";
  sent.clear();
  mine.addEventListener("message", ({ data }) => {
    if (mine !== socket) return;
    if (typeof data === "string") heard(JSON.parse(data));
    else show(data);
  });
  mine.addEventListener("close", ({ code, reason }) => {
    if (mine !== socket || !stream) return;
    hangUp();
    cover("The server does not answer.");
    if (code === 1008 || code === 1013) return stop(`The server has closed the connection: ${reason}.`);
    say("The connection is lost; trying again …", true);
    const attempt = run;
    setTimeout(() => { if (stream && attempt === run) connect(); }, retry);
    retry = Math.min(2 * retry, 8000);
  });
}

function heard(message) {
  if (message.type === "hello" || message.type === "network") {
    retry = 500;
    say(message.network === "ready" ? "The camera is on." : "The server is starting its network …");
    if (message.webrtc) call();
  } else if (message.type === "answer") {
    answered(message);
  } else if (message.type === "hung") {
    hangUp();
  } else if (message.type === "refused") {
    say(`The background stays as it is: ${message.reason}`, true);
  } else if (message.type === "background") {
    say("The camera is on.");
  } else if (message.type === "withheld") {
    sent.delete(message.frame);
    if (performance.now() - lastShown > 500) cover(`Not shown: ${message.reason}`);
  } else if (message.type === "stats") {
    stats(message);
  }
}

async function stats({ fps, server_ms: server, cpu, dropped }) {
  const delay = byPeer ? await peerDelay(server, fps) : delays.sort((a, b) => a - b)[delays.length >> 1];
  delays = [];
  if (!stream) return;
  const ms = (value) => (Number.isFinite(value) ? `${value.toFixed(0)} ms` : "–");
  $("fps").textContent = fps.toFixed(1);
  $("server").textContent = ms(server ?? NaN);
  $("cpu").textContent = cpu.toFixed(2);
  $("dropped").textContent = dropped;
  $("latency").textContent = ms(delay);
  $("way").textContent = byPeer ? "WebRTC" : "WebSocket";
}

async function show(data) {
  const id = new DataView(data).getUint32(0);
  const bitmap = await createImageBitmap(new Blob([data.slice(4)], { type: "image/jpeg" }));
  if (!stream || byPeer) return bitmap.close();
  if (drawn.width !== bitmap.width || drawn.height !== bitmap.height) [drawn.width, drawn.height] = [bitmap.width, bitmap.height];
  picture.drawImage(bitmap, 0, 0);
  bitmap.close();
  uncover();
  if (sent.has(id)) delays.push(lastShown - sent.get(id));
  for (const old of sent.keys()) if (old <= id) sent.delete(old);
}

function uncover() {
  lastShown = performance.now();
  $("cover").hidden = true;
  $("record").disabled = peer !== null && !byPeer; // a clip would end when the way changes
}

// --- WebRTC

async function call() {
  hangUp();
  if (!window.RTCPeerConnection || !stream) return;
  const [track] = stream.getVideoTracks();
  const { width = LONGER, height = LONGER } = track.getSettings();
  const encoding = { scaleResolutionDownBy: Math.max(1, Math.max(width, height) / LONGER), maxBitrate: 2_500_000 };
  const mine = (peer = new RTCPeerConnection());
  mine.addEventListener("connectionstatechange", () => {
    if (mine === peer && ["disconnected", "failed", "closed"].includes(mine.connectionState)) giveUp();
  });
  mine.addEventListener("track", ({ receiver, track: composites }) => {
    if (mine !== peer) return;
    receiver.jitterBufferTarget = 0;
    result.srcObject = new MediaStream([composites]);
    result.play().catch(() => {}); // it has ended before it began
    const seen = () => {
      if (mine !== peer) return;
      if (!byPeer) {
        byPeer = drawn.hidden = true;
        sent.clear();
      }
      uncover();
      result.requestVideoFrameCallback(seen);
    };
    result.requestVideoFrameCallback(seen);
  });
  try {
    const { sender } = mine.addTransceiver(track, { direction: "sendrecv", streams: [stream], sendEncodings: [encoding] });
    await mine.setLocalDescription();
    const parameters = sender.getParameters();
    parameters.degradationPreference = "maintain-resolution"; // a mask of fewer pixels is worse than fewer masks
    await sender.setParameters(parameters).catch(() => {});
  } catch (error) {
    console.warn(error);
    if (mine === peer) hangUp();
    return;
  }
  if (mine !== peer || socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ offer: mine.localDescription.sdp }));
  setTimeout(() => { if (mine === peer && mine.connectionState !== "connected") giveUp(); }, UNREACHED);
}

async function answered({ sdp }) {
  const mine = peer;
  if (!sdp) return hangUp();
  try {
    await mine?.setRemoteDescription({ type: "answer", sdp });
  } catch (error) {
    console.warn(error);
    if (mine === peer) giveUp();
  }
}

function giveUp() {
  hangUp();
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ hangUp: true }));
}

function hangUp() {
  if (!peer) return;
  if (byPeer) stopRecording();
  peer.close();
  peer = before = result.srcObject = null;
  byPeer = drawn.hidden = false;
  picture.clearRect(0, 0, drawn.width, drawn.height);
}

// Returns milliseconds from the camera to the screen: encoding here, the way there and back, the server, decoding here.
// The server has a frame when the first packet of the next one is there (aiortc's jitter buffer).
async function peerDelay(server, fps) {
  const now = { encode: [0, 0], play: [0, 0], way: 0 };
  for (const one of (await peer.getStats()).values()) {
    if (one.type === "outbound-rtp") now.encode = [one.totalEncodeTime, one.framesEncoded];
    if (one.type === "inbound-rtp") now.play = [one.totalProcessingDelay, one.framesDecoded];
    if (one.type === "candidate-pair" && one.nominated) now.way = one.currentRoundTripTime ?? 0;
  }
  const lately = (name) => (now[name][0] - (before?.[name][0] ?? 0)) / (now[name][1] - (before?.[name][1] ?? 0));
  const delay = 1000 * (lately("encode") + lately("play") + now.way + 1 / fps) + (server ?? NaN);
  before = now;
  return delay;
}

function next(mine) {
  if (mine !== run) return;
  const again = () => send(mine).finally(() => next(mine));
  // A tab that is not looked at gets no video frames; its clip goes on, slowly.
  if (camera.requestVideoFrameCallback && !document.hidden) {
    let done = false;
    const once = () => { if (!done) { done = true; again(); } };
    camera.requestVideoFrameCallback(once);
    setTimeout(once, 500);
  } else setTimeout(again, 33);
}

async function send(mine) {
  const now = performance.now();
  for (const [id, moment] of sent) if (now - moment > 3000) sent.delete(id);
  if (byPeer || socket?.readyState !== WebSocket.OPEN || sent.size >= UNDER_WAY || socket.bufferedAmount > 1e6 || !camera.videoWidth) return;
  const scale = Math.min(1, LONGER / Math.max(camera.videoWidth, camera.videoHeight));
  const [width, height] = [camera.videoWidth, camera.videoHeight].map((side) => Math.max(32, Math.round((side * scale) / 2) * 2));
  if (grab.width !== width || grab.height !== height) [grab.width, grab.height] = [width, height];
  taken.drawImage(camera, 0, 0, width, height);
  const blob = await new Promise((done) => grab.toBlob(done, "image/jpeg", QUALITY));
  if (!blob || mine !== run || socket?.readyState !== WebSocket.OPEN) return;
  const data = new Uint8Array(4 + blob.size);
  number = (number + 1) >>> 0;
  new DataView(data.buffer).setUint32(0, number);
  data.set(new Uint8Array(await blob.arrayBuffer()), 4);
  sent.set(number, now);
  if (mine === run && !byPeer && socket?.readyState === WebSocket.OPEN) socket.send(data);
}

$("mirror").addEventListener("change", () => document.querySelector(".pictures").classList.toggle("mirrored", $("mirror").checked));
$("beside").addEventListener("change", () => document.querySelector(".stage").classList.toggle("alone", !$("beside").checked));
document.querySelector(".pictures").classList.toggle("mirrored", $("mirror").checked);

// --- a clip of the composite, made and kept in the browser

$("record").addEventListener("click", () => (recorder ? stopRecording() : record()));

function record() {
  const type = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm"].find((one) => MediaRecorder.isTypeSupported(one));
  const parts = [];
  recorder = new MediaRecorder(byPeer ? result.srcObject : drawn.captureStream(30), { mimeType: type, videoBitsPerSecond: 4e6 });
  recorder.addEventListener("dataavailable", ({ data }) => data.size && parts.push(data));
  recorder.addEventListener("stop", () => {
    const url = URL.createObjectURL(new Blob(parts, { type: type.split(";")[0] }));
    const link = Object.assign(document.createElement("a"), { href: url, download: `vidseg.${type.startsWith("video/mp4") ? "mp4" : "webm"}`, textContent: "Save the clip" });
    const film = Object.assign(document.createElement("video"), { src: url, controls: true, muted: true, playsInline: true });
    $("clip").querySelectorAll("video").forEach((old) => URL.revokeObjectURL(old.src));
    $("clip").replaceChildren(film, link);
    $("clip").hidden = false;
    say("The clip is in this page only; save it, or it is gone with the page.");
  });
  recorder.start(1000);
  $("recording").hidden = false;
  $("record").textContent = "Stop recording";
}

function stopRecording() {
  if (!recorder) return;
  recorder.stop();
  recorder = null;
  $("recording").hidden = true;
  $("record").textContent = "Record a clip";
}

// --- files

let job = null; // {id, events}

$("file").addEventListener("change", () => ($("send").disabled = !$("file").files.length));
$("send").addEventListener("click", work);
$("stop-file").addEventListener("click", async () => {
  const { id, events } = job ?? {};
  events?.close();
  if (id) await fetch(`/v1/jobs/${id}`, { method: "DELETE" });
  ended("Stopped; nothing is kept.");
});
addEventListener("pagehide", () => job && fetch(`/v1/jobs/${job.id}`, { method: "DELETE", keepalive: true }));

function ended(text, bad = false) {
  $("file-status").textContent = text;
  $("file-status").classList.toggle("bad", bad);
  $("progress").hidden = $("stop-file").hidden = true;
  $("send").disabled = !$("file").files.length;
}

async function work() {
  const file = $("file").files[0];
  $("send").disabled = true;
  $("file-status").classList.remove("bad");
  $("file-status").textContent = "Sending …";
  $("file-result").replaceChildren();
  if (job) {
    fetch(`/v1/jobs/${job.id}`, { method: "DELETE" });
    job = null;
  }
  try {
    if (/^image\//.test(file.type)) await workOnPicture(file);
    else await workOnVideo(file);
  } catch (error) {
    ended(`That did not work: ${error.message}`, true);
  }
}

async function workOnPicture(file) {
  const background = $("cut").checked ? "transparent" : chosen();
  const answer = await fetch(`/v1/image?background=${encodeURIComponent(background)}`, { method: "POST", body: file });
  if (!answer.ok) throw new Error(await problem(answer));
  const blob = await answer.blob();
  const url = URL.createObjectURL(blob);
  const image = Object.assign(document.createElement("img"), { src: url, alt: "Your picture with the chosen background" });
  const link = Object.assign(document.createElement("a"), { href: url, download: blob.type === "image/png" ? "vidseg.png" : "vidseg.jpg", textContent: "Save the picture" });
  $("file-result").replaceChildren(image, document.createElement("br"), link);
  ended("Done.");
}

async function workOnVideo(file) {
  const answer = await fetch(`/v1/jobs?background=${encodeURIComponent(chosen())}`, { method: "POST", body: file });
  if (!answer.ok) throw new Error(await problem(answer));
  const { id } = await answer.json();
  const events = new EventSource(`/v1/jobs/${id}/events`);
  job = { id, events };
  $("progress").hidden = $("stop-file").hidden = false;
  $("progress").removeAttribute("value");
  const follow = ({ data }) => {
    const state = JSON.parse(data);
    const { frames = 0, total = 0, fps = 0 } = state.progress;
    if (state.state === "waiting") $("file-status").textContent = "Others are worked on first …";
    if (state.state === "running") {
      $("file-status").textContent = frames ? `${frames}${total ? ` of ${total}` : ""} frames, ${fps.toFixed(0)} a second` : "Starting …";
      if (total) $("progress").value = Math.min(1, frames / total);
    }
    if (state.state === "done" || state.state === "failed") events.close();
    if (state.state === "failed") ended(`That did not work: ${state.reason}`, true);
    if (state.state === "done") {
      const film = Object.assign(document.createElement("video"), { src: state.result, controls: true, playsInline: true });
      const link = Object.assign(document.createElement("a"), { href: state.result, download: "vidseg.mp4", textContent: "Save the video" });
      $("file-result").replaceChildren(film, document.createElement("br"), link);
      ended("Done. The server keeps it for some minutes, and no longer than this page is open.");
    }
  };
  for (const name of ["waiting", "running", "done", "failed"]) events.addEventListener(name, follow);
}

// --- the webcam of this computer

const form = $("webcam-form");
let webcam = null; // what the chosen session said last

async function listWebcams() {
  const answer = await fetch("/v1/webcams");
  const { controlled, sessions } = await answer.json();
  if (!controlled) return false;
  $("webcam").hidden = false;
  const names = sessions.map((one) => one.session);
  const select = $("webcam-session");
  if (names.join() !== [...select.options].map((one) => one.value).join()) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
  tell(sessions.find((one) => one.session === select.value));
  return true;
}

async function watchWebcams() {
  const more = await listWebcams().catch(() => tell(undefined) ?? !$("webcam").hidden);
  if (more) setTimeout(watchWebcams, document.hidden ? 10000 : 2000);
}

function tell(one) {
  webcam = one;
  form.hidden = !one;
  $("webcam-none").hidden = Boolean(one);
  if (!one) return;
  const { settings, status, presets } = one;
  const delay = status.latency?.added?.p50;
  $("webcam-status").textContent = [
    status.reason || { people: "You are shown", background: "The background alone is shown", card: "A card is shown", last: "The last picture is shown", room: "The room is shown" }[status.showing],
    `camera ${status.camera}`,
    `${status.fps.toFixed(1)} frames a second`,
    ...(delay === undefined ? [] : [`${delay.toFixed(0)} ms added`]),
    `${status.cpu.toFixed(2)} cores`,
    ...Object.entries(status.outputs).map(([name, state]) => `${name}: ${state}`),
  ].join(" · ");
  $("webcam-pause").textContent = settings.paused ? "Show me again" : "Pause";
  for (const input of form.querySelectorAll("[name]")) {
    if (input === document.activeElement) continue; // somebody is at it
    if (input.type === "checkbox") input.checked = settings[input.name];
    else input.value = settings[input.name];
  }
  const [right, down] = settings.position;
  if (document.activeElement !== $("webcam-right")) $("webcam-right").value = right;
  if (document.activeElement !== $("webcam-down")) $("webcam-down").value = down;
  const row = $("webcam-presets");
  if (presets.join() !== [...row.children].map((one) => one.textContent).join()) {
    row.replaceChildren(...presets.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.addEventListener("click", () => askWebcam({ do: "preset", name }));
      return button;
    }));
  }
}

async function askWebcam(change) {
  const answer = await fetch(`/v1/webcams/${encodeURIComponent($("webcam-session").value)}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(change) });
  const bad = !answer.ok;
  $("webcam-said").textContent = bad ? await problem(answer) : change.do === "stop" ? "It ends." : "";
  $("webcam-said").classList.toggle("bad", bad);
  if (!bad) tell(change.do === "stop" ? undefined : await answer.json());
}

const set = (values) => askWebcam({ do: "change", values });
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", ({ target }) => {
  if (target.name) set({ [target.name]: target.type === "checkbox" ? target.checked : target.type === "range" ? Number(target.value) : target.value });
});
$("webcam-blur").addEventListener("change", () => set({ background: `blur:${$("webcam-blur").value}` }));
$("webcam-color").addEventListener("change", () => set({ background: $("webcam-color").value }));
for (const id of ["webcam-right", "webcam-down"]) $(id).addEventListener("change", () => set({ position: [Number($("webcam-right").value), Number($("webcam-down").value)] }));
$("webcam-pause").addEventListener("click", () => set({ paused: !webcam.settings.paused }));
$("webcam-stop").addEventListener("click", () => askWebcam({ do: "stop" }));

watchWebcams();
fillGallery().catch(() => say("The server does not answer.", true));
if (only) {
  document.body.classList.add("only");
  $("mirror").click();
  start();
}
