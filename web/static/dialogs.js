// What can be changed of one agent or one link, each in a dialog of its own; their markup comes with this.

import "./apart.js";
import { at, number } from "./controls.js";
import { byId, markup, say, set } from "./dom.js";
import { duration, rate, speed, text } from "./format.js";

const forS = (field) => {
  const seconds = number(field);
  return seconds === null ? {} : { for_s: seconds };
};

// Load, speed, stop and kill of the agent that `open` names.
const createAgentDialog = (orders) => {
  const dialog = byId("agent-dialog");
  let name = null;
  const said = byId("agent-said");
  const ask = (button, what, body) => orders.perform(button, said, `/api/agents/${at(name)}/${what}`, body);
  const sure = byId("agent-sure");

  byId("agent-load-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(byId("agent-load-set"), "load", { processes: number(byId("agent-load")) ?? 0, ...forS(byId("agent-load-for")) });
  });
  byId("agent-speed-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(byId("agent-speed-set"), "speed", { speed: number(byId("agent-speed")), ...forS(byId("agent-speed-for")) });
  });
  let wanted = null;
  for (const [id, what, words] of [
    ["agent-stop", "stop", "End the process of AGENT in an orderly way?"],
    ["agent-kill", "kill", "Have AGENT crash, without a goodbye to anyone?"],
  ])
    byId(id).addEventListener("click", () => {
      wanted = what;
      say(byId("agent-sure-text"), `${words.replace("AGENT", name)} Who started it has to start it again.`);
      say(byId("agent-sure-yes"), `Yes, ${what} ${name}`);
      set(sure, { hidden: false });
      byId("agent-sure-no").focus();
    });
  byId("agent-sure-yes").addEventListener("click", ({ target }) => {
    set(sure, { hidden: true });
    ask(target, wanted, {});
    byId(`agent-${wanted}`).focus();
  });
  byId("agent-sure-no").addEventListener("click", () => {
    set(sure, { hidden: true });
    byId(`agent-${wanted}`).focus();
  });

  return {
    open: (agent) => {
      name = agent.agent;
      say(byId("agent-title"), `${name}, ${agent.tier}`);
      say(byId("agent-now"), `speed ${speed(agent.speed)}; load of its board ${agent.board ? `${Math.round(agent.board.load * 100)} %` : text(null)}`);
      const emulated = typeof agent.speed === "number" && agent.speed < 1;
      say(
        byId("agent-load-hint"),
        emulated
          ? "Its speed is emulated, so a load lowers that instead."
          : "So many busy processes on its board; 0 ends them.",
      );
      say(said, "");
      set(sure, { hidden: true });
      dialog.showModal();
    },
  };
};

const createLinkDialog = (orders) => {
  const dialog = byId("link-dialog");
  let ends = null;
  const said = byId("link-said");
  const each = async (button, path, body) => {
    await orders.perform(button, said, path, { from: ends[0], to: ends[1], ...body });
    if (byId("link-both").checked)
      await orders.perform(byId("link-back"), byId("link-back-said"), path, { from: ends[1], to: ends[0], ...body });
  };
  byId("link-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter?.id === "link-reset") {
      each(event.submitter, "/api/links/reset", {});
      return;
    }
    const values = {
      mbit_per_s: number(byId("link-rate")),
      latency_ms: number(byId("link-delay")),
      loss_percent: number(byId("link-loss")),
    };
    each(byId("link-set"), "/api/links", { ...values, ...forS(byId("link-for")) });
  });
  return {
    open: (link) => {
      ends = [link.from, link.to];
      say(byId("link-title"), `${link.from} → ${link.to}`);
      say(
        byId("link-now"),
        `now ${rate(link.estimate_bytes_per_s ?? link.bytes_per_s)}, held to ${rate(link.target_bytes_per_s)}, ${duration(link.latency_s)} one way`,
      );
      for (const id of ["link-said", "link-back-said"]) say(byId(id), "");
      dialog.showModal();
    },
  };
};

// {agent, link}. Rejects where the markup does not come.
export const createDialogs = async (orders) => {
  for (const dialog of [...(await markup("dialogs"))]) {
    document.body.append(dialog);
    // Closed by its button, by Escape, and by a click beside it.
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
  }
  return { agent: createAgentDialog(orders), link: createLinkDialog(orders) };
};
