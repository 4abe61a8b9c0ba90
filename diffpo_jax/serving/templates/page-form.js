const models = JSON.parse(document.getElementById("models").textContent);
const prompt_ = document.getElementById("prompt"), asked = document.getElementById("asked");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let taken = null;  // number of the test prompt in the box

const element = (tag, name, text = "") => {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
};
const number = x => String(Number(x.toPrecision(3)));

// The refusal of a response, as a sentence.
const faultOf = async response => {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answers with status ${response.status}.`;
  }
};

const kindOf = (columns, pieces) => columns ? "board"
  : pieces.length <= 48 && !pieces.join("").includes("\n") ? "line" : "text";

// A completion of which nothing is written, in the form that order.js steps through.
const blank = start => {
  const order = element("div", "order"), list = element("div", "tokens");
  order.dataset.last = 0;
  order.dataset.open = "";
  list.classList.add(kindOf(start.columns, Array(start.length).fill("")));
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Tokens of the completion");
  list.style.setProperty("--columns", start.columns);
  if (start.columns) list.dataset.columns = start.columns;
  for (let i = 0; i < start.length; i++) {
    const token = element("span", "token"), box = start.box;
    token.dataset.call = "Infinity";
    token.setAttribute("role", "option");
    token.setAttribute("aria-label", "not written yet");
    token.append(element("span", "piece", "\u2007"), element("span", "call"));
    token.lastChild.setAttribute("aria-hidden", "true");
    const [column, row] = [i % start.columns, Math.floor(i / start.columns)];
    token.classList.toggle("left", box > 0 && column > 0 && column % box === 0);
    token.classList.toggle("top", box > 0 && row > 0 && row % box === 0);
    list.append(token);
  }
  const controls = element("div", "controls"), play = element("button", "play", "Play");
  const slider = element("input", ""), at = element("span", "at");
  play.type = "button";
  Object.assign(slider, { type: "range", min: 1, max: 1 });
  slider.setAttribute("aria-label", "Denoiser call");
  at.append("call ", element("span", "reached"), " of ", element("span", "last"));
  controls.append(play, slider, at);
  const told = element("p", "told");
  told.setAttribute("aria-live", "polite");
  order.append(element("p", "facts"), controls, list, element("p", "verdict"), told);
  return order;
};

const write = (token, call, piece) => {
  token.dataset.call = call;
  token.querySelector(".piece").textContent = piece;
  token.querySelector(".call").textContent = call;
  token.classList.toggle("name", piece.length > 4);
};

// The last call there is; later calls are drawn the stronger.
const reach = (order, call) => {
  order.dataset.last = order.querySelector(".controls input").max = call;
  order.querySelector(".last").textContent = call;
  for (const token of order.querySelectorAll(".token")) {
    const own = Math.min(Number(token.dataset.call), call);
    token.style.setProperty("--late", (own - 1) / Math.max(call - 1, 1));
  }
};

const finish = (order, end) => {
  const list = order.querySelector(".tokens"), tokens = list.children;
  // A board stays one, also if a token is none of its digits.
  list.className = `tokens ${kindOf(Number(list.dataset.columns || end.columns), end.pieces)}`;
  for (const [i, token] of [...tokens].entries()) {
    write(token, end.calls[i], end.pieces[i]);
    for (const name of ["given", "wrong", "filled"]) {
      token.classList.toggle(name, end[name].includes(i));
      if (end[name].includes(i))
        token.setAttribute("aria-label", name === "filled" ? "filled in after the end"
          : `${token.getAttribute("aria-label")}, ${name}`);
    }
  }
  if (list.classList.contains("text"))
    for (const call of list.querySelectorAll(".call")) call.remove();
  order.querySelector(".facts").textContent = end.facts;
  order.querySelector(".verdict").textContent = end.verdict;
  delete order.dataset.open;
  reach(order, Math.max(...end.calls));
};

// Lines of JSON as they come.
async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      if (rest) yield JSON.parse(rest);
      return;
    }
    const found = (rest + value).split("\n");
    rest = found.pop();
    for (const line of found) yield JSON.parse(line);
  }
}

const panels = [...document.querySelectorAll(".model")].map(section => {
  const model = models[section.dataset.index];
  const find = name => section.querySelector(name);
  const dial = find(".dial"), scale = find(".scale"), status = find(".status");
  const mark = find(".mark"), learned = find(".learned");
  let running = null, written = false;
  dial.value = model.values.indexOf(model.start);

  const usesLearned = () => model.learned && find("input[value=learned]").checked;
  const say = (text, fault = false) => {
    status.textContent = text;
    status.classList.toggle("fault", fault);
  };
  const label = () => {
    const text = number(model.values[dial.value]) + model.unit;
    find(".dialled").textContent = text;
    dial.setAttribute("aria-valuetext", text);
    if (!scale) return;
    find(".scaled").textContent = number(2 ** scale.value);
    scale.setAttribute("aria-valuetext", `times ${number(2 ** scale.value)}`);
  };
  // Where the γ that the head learned for this prompt is on the slider.
  const markLearned = value => {
    learned.hidden = value === null;
    if (value === null) return;
    const next = model.values.findIndex(x => x >= value), last = model.values.length - 1;
    const [low, high] = [model.values[next - 1], model.values[next]];
    const place = next < 0 ? last : next === 0 ? 0 : next - 1 + (value - low) / (high - low);
    learned.style.setProperty("--at", place / last);
    learned.textContent = `learned: ${number(value)}${model.unit}`;
  };

  const run = async () => {
    running?.abort();
    const refuse = text => {
      find(".place").replaceChildren();
      say(text, true);
    };
    const own = running = new AbortController();
    const body = { model: model.name, prompt: prompt_.value, example: taken };
    if (!usesLearned()) body[model.dial] = model.values[dial.value];
    else body.scale = 2 ** scale.value;
    mark.hidden = true;
    say("");
    const waiting = setTimeout(() => say("Waiting for the first call."), 300);
    try {
      const response = await fetch("api/write", {
        method: "POST", headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body), signal: own.signal,
      });
      if (!response.ok) return refuse(await faultOf(response));
      let order = null, steps = null, ended = false;
      for await (const line of lines(response)) {
        if (line.error) return refuse(line.error.message);
        if ("length" in line) {
          order = blank(line);
          find(".place").replaceChildren(order);
          // Slow enough to follow, and a long text not for minutes.
          steps = stepper(order, Math.max(80, Math.min(450, 12000 / line.length)));
        } else if ("call" in line) {
          for (const one of line.tokens) {
            const token = order.querySelector(".tokens").children[one.place];
            write(token, line.call, one.piece);
            token.dataset.probability = one.probability;
            token.setAttribute("aria-label", `“${one.piece}”, probability `
              + `${one.probability.toFixed(3)}, entropy ${one.entropy.toFixed(3)} nats`);
          }
          reach(order, line.call);
          if (line.call === 1) {
            clearTimeout(waiting);
            say("");
            steps.show(1);
            if (!still.matches) steps.toggle();
          } else if (still.matches) steps.show(line.call);
        } else {
          ended = true;
          finish(order, line);
          markLearned(line.learned);
          if (still.matches) steps.show(Number(order.dataset.last));
          if (line.right !== null) {
            mark.hidden = false;
            mark.className = `mark ${line.right ? "right" : "wrong"}`;
            mark.textContent = line.right ? "right" : "wrong";
          }
        }
      }
      written = true;
      if (!ended) say("The server went away before the end.", true);
    } catch (error) {
      if (error.name !== "AbortError") say("The server cannot be reached.", true);
    } finally {
      clearTimeout(waiting);
    }
  };

  for (const slider of [dial, scale].filter(Boolean)) {
    slider.addEventListener("input", () => {
      if (scale) find(`input[value=${slider === dial ? "fixed" : "learned"}]`).checked = true;
      label();
    });
    slider.addEventListener("change", () => { if (written) run(); });
  }
  for (const choice of section.querySelectorAll("input[type=radio]"))
    choice.addEventListener("change", () => { if (written) run(); });
  label();
  return { run, clear: () => { written = false; markLearned(null); } };
});

const ask = document.getElementById("ask");
ask.addEventListener("submit", event => {
  event.preventDefault();
  for (const panel of panels) panel.run();
});
prompt_.addEventListener("input", () => {
  taken = null;
  for (const panel of panels) panel.clear();
});
prompt_.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask.requestSubmit();
  }
});
const count = document.getElementById("number");
if (count) {
  taken = 1;  // it is in the box at the start
  const take = async () => {
    if (!count.reportValidity()) return;
    try {
      const response = await fetch(`api/examples/${Number(count.value)}`);
      if (!response.ok) {
        asked.textContent = await faultOf(response);
        return;
      }
      prompt_.value = (await response.json()).prompt;
      taken = Number(count.value);
      asked.textContent = `Test prompt ${taken} is in the box.`;
      for (const panel of panels) panel.clear();
    } catch {
      asked.textContent = "The server cannot be reached.";
    }
  };
  document.getElementById("take").addEventListener("click", take);
  document.getElementById("random").addEventListener("click", () => {
    count.value = 1 + Math.floor(Math.random() * Number(count.max));
    take();
  });
  count.addEventListener("keydown", event => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    take();
  });
}
