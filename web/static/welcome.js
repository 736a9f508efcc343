// Until all agents of the pipeline have joined: what to type to start each, on this machine or on a board.

import "./apart.js";
import { post } from "./asking.js";
import { html, say, set, swatch } from "./dom.js";
import { TIERS } from "./store.js";

// Whether only this machine reaches the server by this name.
export const isLoopback = (hostname) => ["127.0.0.1", "localhost", "[::1]"].includes(hostname);

// What to type to start an agent on the server's own machine.
export const startHere = (name, tier, origin, guarded) =>
  `d3bed agent --name ${name} --tier ${tier} --server ${origin}${guarded ? " --token TOKEN" : ""}`;

const INSTALLERS = {
  device: "devices/raspberry-pi/install.sh",
  edge: "devices/edge-box/install.sh",
  cloud: "devices/cloud-vm/install-agent.sh",
};

// What to type on a bare board of this tier, in a checkout there: installs, joins, starts with each boot. With
// HTTPS the board knows the server by its authority's fingerprint, which is on the command for joining.
export const installBoard = (name, tier, origin, token, command) => {
  const ca = command.match(/ --ca \S+/)?.[0] ?? "";
  return `sudo D3BED_TOKEN=${token} ${INSTALLERS[tier]} --server ${origin}${ca} --name ${name}`;
};

// A board of its own joins with a token that is good for it alone, and is then an agent without options.
const invite = (name, tier) => {
  const button = html("button", { type: "button", class: "small" }, "Make its command");
  const said = html("p", { class: "said", role: "status" });
  const part = html("div", {}, button, said);
  button.addEventListener("click", async () => {
    set(button, { "aria-busy": "true" });
    try {
      const { command, token } = await post("/api/invitations", { agent: name });
      part.replaceChildren(
        html("p", { class: "where muted" }, "bare: from a checkout there, once and for each boot"),
        copyable(installBoard(name, tier, location.origin, token, command)),
        html("p", { class: "where muted" }, "with d3bed[agent] installed"),
        copyable(`${command} && d3bed agent`),
        html("p", { class: "muted where" }, "Good for an hour, once. The token is not shown again."),
      );
    } catch (error) {
      set(said, { class: "said failed" });
      say(said, error.message);
      set(button, { "aria-busy": null });
    }
  });
  set(button, { "aria-label": `Make the command for ${name}` });
  return part;
};

const KINDS = {
  device: "a Raspberry Pi, or any board with a camera or photos",
  edge: "a box near the device",
  cloud: "a virtual machine",
};

const copied = async (button, words) => {
  try {
    await navigator.clipboard.writeText(words);
  } catch {
    // Without a secure origin there is no clipboard for scripts: select it, so that a key can copy it.
    const range = document.createRange();
    range.selectNodeContents(button.previousElementSibling);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    say(button, "Selected");
    return;
  }
  say(button, "Copied");
  setTimeout(() => say(button, "Copy"), 2_000);
};

const copyable = (words) => {
  const button = html("button", { type: "button", class: "small" }, "Copy");
  button.addEventListener("click", () => copied(button, words));
  set(button, { "aria-label": `Copy: ${words}` });
  return html("p", { class: "command" }, html("code", {}, words), button);
};

export const createWelcome = ({ card, list, hint }) => {
  let shown = "";
  return (state, pipeline) => {
    const members = Object.entries(pipeline?.members ?? {});
    const seen = new Set(state.agents.map((agent) => agent.agent));
    const missing = members.filter(([name]) => !seen.has(name));
    set(card, { hidden: !missing.length });
    const key = JSON.stringify([members, [...seen], state.guarded]);
    if (!missing.length || key === shown) return;
    shown = key;
    const arrived = members.length - missing.length;
    const alone = isLoopback(location.hostname);
    say(
      hint,
      `${arrived} of ${members.length} have arrived. ` +
        (alone
          ? "You reach this server as this machine only: for boards of their own start it with --host 0.0.0.0, and open this page by its address."
          : "A board needs d3bed[agent] and the way to this address."),
    );
    list.replaceChildren(
      ...members
        .sort(([a, s], [b, t]) => TIERS.indexOf(s) - TIERS.indexOf(t) || a.localeCompare(b))
        .map(([name, tier]) => {
          const here = seen.has(name);
          return html(
            "li",
            { "data-here": String(here), "data-agent": name },
            html(
              "p",
              { class: "who" },
              html("span", { class: here ? "tick fine" : "tick", "aria-hidden": "true" }, here ? "✓" : "○"),
              swatch(tier),
              html("strong", {}, name),
              html("span", { class: "muted" }, here ? "is here" : `${tier}: ${KINDS[tier]}`),
            ),
            ...(here
              ? []
              : [
                  html("p", { class: "where muted" }, "on this machine"),
                  copyable(startHere(name, tier, location.origin, state.guarded)),
                  ...(alone ? [] : [html("p", { class: "where muted" }, "on a board of its own"), invite(name, tier)]),
                ]),
          );
        }),
    );
  };
};
