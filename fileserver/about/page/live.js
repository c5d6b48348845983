// What comes from the server, once a second, and where it goes on the page.

const map = new Treemap(byId("map"), byId("tip"));
const files = new FileTable(byId("files"), byId("search"), byId("files-said"), byId("more"));
const charts = [
  new Chart(byId("chart-requests"), 1, (rate) => countText(Math.round(rate))),
  new Chart(byId("chart-bytes"), 2, (rate) => `${bytesText(Math.round(rate))}/s`),
  new Chart(byId("chart-evictions"), 3, (rate) => countText(Math.round(rate))),
  new Chart(byId("chart-ratio"), 4, percentText, 1),
];
const CLASSES = { hit: "Hit", miss: "Miss", coalesced: "Coalesced", bypass: "Bypass", none: "Others" };
const percentiles = (times) => ["p50", "p90", "p99", "p99.9"].map((name) => times[name] === null ? "–" : secondsText(times[name]));

function show({ stats, rates, evictions, entries, others }) {
  for (const node of document.querySelectorAll("[data-stat]")) {
    const value = node.dataset.stat.split(".").reduce((inside, key) => inside[key], stats);
    node.dataset.value = value;
    say(node, value === null ? "unknown" : FORMS[node.dataset.as ?? "count"](value));
  }
  const free = stats.capacity - stats.cached - stats.filling;
  say(byId("free"), bytesText(free));
  byId("cached").style.width = `${100 * stats.cached / (stats.capacity || 1)}%`;
  byId("filling").style.width = `${100 * stats.filling / (stats.capacity || 1)}%`;
  byId("budget").setAttribute("aria-label", `${bytesText(stats.cached)} cached, ${bytesText(stats.filling)} ` +
    `filling, ${bytesText(free)} free of ${bytesText(stats.capacity)}`);
  const minutes = minutesOf(rates);
  say(byId("rates-title"), `The last ${minutesText(minutes)}`);
  for (const chart of charts) chart.update(rates, minutes);
  map.update(entries, others);
  say(byId("map-said"), stats.entries
    ? `${counted(stats.entries, "file")} in ${bytesText(stats.cached)}` + (others.entries
      ? `: the ${countText(entries.length)} largest, and ${countText(others.entries)} others together.` : ".")
    : "Nothing is cached yet.");
  files.update(entries, others);
  fill(byId("latency"), Object.entries(stats.latency).flatMap(([name, times]) => [
    [`${CLASSES[name]}: first byte`, countText(times.first_byte_s.count), ...percentiles(times.first_byte_s)],
    [`${CLASSES[name]}: all of it`, countText(times.total_s.count), ...percentiles(times.total_s)],
  ]));
  fill(byId("evictions"), evictions.map((gone) => [
    link(gone.name), bytesText(gone.size), countText(gone.hits), secondsText(gone.ago_s), nameText(gone.newcomer), gone.rule,
  ]));
  fill(byId("slowest"), stats.slowest_fills.map((slow) => [
    link(slow.name), bytesText(slow.size), secondsText(slow.seconds), secondsText(slow.ago_s),
  ]));
  showWhatIf(stats.what_if);
}

function showWhatIf(whatIf) {
  byId("what-if-section").hidden = !whatIf;
  if (!whatIf) return;
  const sample = whatIf.sample_rate < 1 ? `, ${percentText(whatIf.sample_rate)} of the names` : "";
  say(byId("what-if-said"), `Of ${countText(whatIf.requests)} requests${sample}` + (whatIf.dropped
    ? `; ${countText(whatIf.dropped)} came too fast to be counted, so this is only a hint.`
    : `, right to ${percentText(whatIf.expected_error)} or so.`));
  fill(byId("what-if"), Object.entries(whatIf.policies).map(([name, ratios]) => [
    name, percentText(ratios.object_hit_ratio), percentText(ratios.byte_hit_ratio),
  ]));
}

const SCALES = { hits: "none to most", recency: "long ago to now" };

function colourBy(heat) {
  map.colourBy(heat);
  say(byId("scale"), SCALES[heat]);
}

// Live by Server-Sent Events; where too many watch already, or something between us holds them back, by asking.

const POLL_MS = 2000;
const PATIENCE_MS = 5000;
const RETRY_MS = 60000;
const WORDS = { live: "live", polling: "asking every 2 s", offline: "no answer, trying again", paused: "paused" };
let source = null, timer = 0, openedMs = 0, lastMs = 0, asking = null;

function state(live) {
  const node = byId("state");
  node.dataset.live = live;
  say(node, WORDS[live]);
}

function arrived(text, live) {
  lastMs = Date.now();
  show(JSON.parse(text));
  state(live);
}

function watch() {
  stop();
  source = new EventSource("/-/events");
  source.onmessage = (event) => arrived(event.data, "live");
  source.onerror = () => { if (Date.now() - lastMs > PATIENCE_MS) state("offline"); };
  openedMs = lastMs = Date.now();
  timer = setInterval(poll, POLL_MS);
}

async function poll() {
  if (asking) return;
  const isStreaming = source !== null && source.readyState !== EventSource.CLOSED;
  if (isStreaming && Date.now() - lastMs < PATIENCE_MS) return;
  if (!isStreaming && Date.now() - openedMs > RETRY_MS) { watch(); return; }  // somebody may have made room
  const mine = asking = new AbortController();
  try {
    const answer = await fetch("/-/snapshot", { cache: "no-store", signal: mine.signal });
    if (!answer.ok) throw new Error(answer.statusText);
    arrived(await answer.text(), "polling");
  } catch {
    if (!mine.signal.aborted) state("offline");
  } finally {
    if (asking === mine) asking = null;
  }
}

function stop() {
  source?.close();
  asking?.abort();
  source = asking = null;
  clearInterval(timer);
}

// Nobody is served who does not look.
function resume() {
  const paused = byId("pause").getAttribute("aria-pressed") === "true";
  if (paused || document.hidden) stop();
  else watch();
  if (paused) state("paused");
}

document.addEventListener("visibilitychange", resume);
byId("pause").addEventListener("click", (event) => {
  const button = event.currentTarget;
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  resume();
});
for (const choice of document.querySelectorAll("input[name=heat]")) {
  choice.addEventListener("change", () => colourBy(choice.value));
}
colourBy("hits");
say(byId("where"), location.host);
document.title = `gserver ${location.host}`;
resume();
