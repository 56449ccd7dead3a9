/** What the model is: its file, its shape, its memory, its weights, its speed. */

import * as api from "./api.js";
import { roofline, stackedBar } from "./charts.js";
import { fill, h } from "./dom.js";
import { bytes, count, figures, integer, percent } from "./format.js";
import { LayersSection } from "./layers.js";
import { server } from "./server.js";
import { rowsTable } from "./tables.js";

/** Names of the hyper-parameters that are not shown elsewhere, as people call them. */
const PARAMETER_NAMES = {
    num_hidden_layers: "Layers",
    hidden_size: "Hidden size",
    intermediate_size: "Feed-forward size",
    num_attention_heads: "Heads",
    num_key_value_heads: "Key and value heads",
    head_dim: "Width of a head",
    vocab_size: "Vocabulary",
    hidden_act: "Activation function",
    rms_norm_eps: "Norm epsilon",
    rope_theta: "RoPE base",
};

export class ModelView {
    title = "Model";
    element = h("section", { class: "view", "aria-label": "Model" });
    #state = "";
    #onServer = () => this.#follow();

    constructor() {
        server.addEventListener("change", this.#onServer);
        this.#follow();
    }

    leave() {
        server.removeEventListener("change", this.#onServer);
    }

    /** Reads the statistics again when the model or its state changes. */
    #follow() {
        const model = server.model;
        const state = JSON.stringify([server.phase, model?.id, model?.status?.value]);
        if (state === this.#state) return;
        this.#state = state;
        if (server.phase === "ready" && !model) return this.#say("The server has no model.");
        if (!model || server.phase !== "ready") return this.#say("Waiting for the server.");
        if (model.status?.value === "loading") return this.#say(`${model.id} is loading.`);
        this.#read(model.id);
    }

    async #read(id) {
        if (!this.element.hasChildNodes()) this.#say("Reading the weights.");
        try {
            const statistics = await api.statistics(id);
            if (server.model?.id === id) fill(this.element, sections(statistics));
        } catch (error) {
            this.#fail(id, error);
        }
    }

    #fail(id, error) {
        if (error.status !== 409) return this.#say(error.message);
        const load = ({ currentTarget }) => {
            currentTarget.disabled = true;
            api.loadModel(id).then(
                () => server.refresh(),
                (failure) => this.#say(failure.message),
            );
            server.refresh();
        };
        this.#say(`${id} is not loaded.`, h("button", { type: "button", class: "button", on: { click: load } }, "Load it"));
    }

    #say(text, ...rest) {
        fill(this.element, h("p", { class: "view-note" }, text), rest);
    }
}

function sections(statistics) {
    const layers = new LayersSection(statistics);
    return [facts(statistics), architecture(statistics), memory(statistics), layers.element, speed(statistics)];
}

/** A part of the view, with its heading. */
function section(title, ...children) {
    return h("section", { class: "part" }, h("h2", { class: "part-title" }, title), children);
}

/** Pairs of a name and what it is; pairs without a value are left out. */
function factList(pairs) {
    const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    return h(
        "dl",
        { class: "facts" },
        known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
}

function facts({ name, id, file, type, license, architecture: family, activations, parameters, context, config }) {
    const shown = Object.entries(config).map(([key, value]) => [PARAMETER_NAMES[key] ?? key, plain(key, value)]);
    return section(
        name ?? id,
        factList([
            ["File", file.name && `${file.name} · ${file.format} · ${bytes(file.bytes)}`],
            ["Form", type],
            ["Licence", license ?? "not stated"],
            ["Architecture", family],
            ["Parameters", `${count(parameters.total)}, ${count(parameters.ternary)} of them ternary`],
            ["Activations", activations],
            [
                "Context",
                context.served === context.trained
                    ? integer(context.trained)
                    : `${integer(context.served)} of ${integer(context.trained)} trained`,
            ],
            ["SHA-256", file.sha256 && h("code", { class: "hash" }, file.sha256)],
        ]),
        h(
            "details",
            { class: "more" },
            h("summary", {}, "Hyper-parameters"),
            factList(shown.filter(([key]) => key !== "max_position_embeddings")),
        ),
    );
}

function plain(key, value) {
    if (value === null || (Array.isArray(value) && value.length === 0)) return null;
    if (typeof value === "object" && !Array.isArray(value)) return Object.values(value).map(String).join(", ");
    if (key === "rms_norm_eps") return value.toExponential();
    if (Array.isArray(value)) return `${value.length} values`;
    return typeof value === "number" ? (Number.isInteger(value) ? integer(value) : String(value)) : String(value);
}

/** The graph as a row of boxes, its repeated part framed. */
function architecture({ config, embedding, head, layers }) {
    const box = (name, detail) =>
        h("div", { class: "box" }, h("span", { class: "box-name" }, name), detail && h("span", { class: "box-detail" }, detail));
    const arrow = () => h("span", { class: "flow", "aria-hidden": "true" });
    const chain = (...boxes) => boxes.flatMap((item, index) => (index ? [arrow(), item] : [item]));
    const heads = `${config.num_attention_heads} heads, ${config.num_key_value_heads} for keys`;
    const layer = h(
        "div",
        { class: "repeat" },
        h("span", { class: "repeat-count" }, `${layers.length} times`),
        h(
            "div",
            { class: "chain" },
            chain(
                box("norm"),
                box("attention", heads),
                box("norm"),
                box("feed-forward", `${integer(config.intermediate_size)}, ${config.hidden_act}`),
            ),
        ),
    );
    const last = head ? matrixText(head) : "shares the embedding";
    return section(
        "Architecture",
        h("div", { class: "chain outer" }, chain(box("embedding", matrixText(embedding)), layer, box("norm"), box("head", last))),
    );
}

function matrixText({ rows, cols, type }) {
    return `${integer(rows)} × ${integer(cols)}, ${type}`;
}

function memory({ memory: plan, context }) {
    const parts = [
        ["Linears", plan.linears_bytes],
        ["Embedding", plan.embedding_bytes],
        ["Head", plan.head_bytes],
        ["Keys and values", plan.kv_bytes],
        ["Workspace", plan.workspace_bytes ?? 0],
    ].map(([name, value], index) => ({ name, value, text: bytes(value), kind: `grey-${index + 1}` }));
    const total = parts.reduce((sum, { value }) => sum + value, 0);
    const machine = plan.machine_bytes
        ? `, ${percent(total / plan.machine_bytes)} of the ${bytes(plan.machine_bytes)} in this machine`
        : "";
    return section(
        "Memory",
        h("p", { class: "lead" }, `${bytes(total)} in all${machine}.`),
        stackedBar(parts, total),
        h(
            "p",
            { class: "small" },
            `Keys and values take ${bytes(plan.kv_bytes_per_token)} for each token of at most ${integer(context.served)} in one sequence, and may grow to ${bytes(plan.kv_budget_bytes)} in all.`,
        ),
    );
}

function speed({ speed: measured, kernels }) {
    const { machine } = measured;
    const used = factList([
        ["Instruction set", kernels.isa],
        ["Threads", integer(kernels.threads)],
        ["Ternary kernels", kernels.ternary.join(", ")],
        ["Memory reads", machine && `${figures(machine.read_bandwidth / 1e9)} GB/s`],
        ["Multiplying", machine && `${figures(machine.multiply_peak / 1e9)} G multiply-adds/s`],
    ]);
    const points = [
        ["Decode", measured.decode],
        ["Prefill", measured.prefill],
    ].filter(([, point]) => point?.tokens_per_second);
    if (!machine || points.length === 0)
        return section(
            "Speed",
            h("p", { class: "view-note" }, "Not measured yet: this fills in once the model has answered."),
            used,
        );
    const dots = points.map(([name, point]) => dotOf(name, point, machine));
    const picture = roofline({ bandwidth: machine.read_bandwidth, peak: machine.multiply_peak }, dots);
    return section("Speed", h("div", { class: "speed-chart" }, picture), speedTable(dots), used);
}

function dotOf(
    name,
    { tokens_per_second: rate, tokens_per_pass: tokens, bytes_per_pass: read, multiply_adds_per_token: work },
    machine,
) {
    const limits = { memory: (machine.read_bandwidth * tokens) / read, multiplying: machine.multiply_peak / work };
    const bound = limits.memory < limits.multiplying ? "memory" : "multiplying";
    const limit = limits[bound];
    return {
        name,
        intensity: (work * tokens) / read,
        rate: rate * work,
        measured: rate,
        limit,
        bound,
        text: `${figures(rate)} of ${figures(limit)} tokens per second`,
    };
}

function speedTable(dots) {
    const heads = ["Pass", "Tokens per second", "The machine allows", "Share", "Bound by"];
    const row = ({ name, measured, limit, bound }) => [name, figures(measured), figures(limit), percent(measured / limit), bound];
    return rowsTable(heads, dots.map(row), "Speed");
}
