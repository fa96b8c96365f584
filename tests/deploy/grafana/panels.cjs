// Shows panels as Grafana would, with Grafana's own code for data: transformations, field defaults, overrides, units.
//
//     node panels.cjs MODULES < input.json
//
// MODULES is the folder node_modules with @grafana/data. The input is a list of {panel, answers, variables}; `answers`
// has Prometheus' result for the refId of each query. The output is a list of lists of fields: {name, type, values:
// [{text, color}], width, unit, cells, matched}, in the order of columns; `matched` has the numbers of the overrides
// that match the field. Fields without values have none.
"use strict";

const { createRequire } = require("node:module");
const { join } = require("node:path");
const load = createRequire(join(process.argv[2], "_"));

// what @grafana/data expects of a browser
const { JSDOM } = load("jsdom");
const { window } = new JSDOM("", { url: "http://localhost" });
for (const name of ["document", "navigator", "localStorage", "Element", "HTMLElement", "Node", "DOMParser"]) {
  Object.defineProperty(globalThis, name, { value: window[name], configurable: true });
}
globalThis.window = window;

const grafana = load("@grafana/data");
const { firstValueFrom } = load("rxjs");

const transformers = new Map(Object.values(grafana.standardTransformers).map((each) => [each.id, each]));
grafana.standardTransformersRegistry.setInit(() =>
  [...transformers.values()].map((each) => ({ id: each.id, name: each.name, transformation: async () => each })),
);

// the options of fields that our dashboards use; Grafana has their editors in @grafana/ui. `custom.` are the panels' own
const identity = (value) => value;
const OPTIONS = ["unit", "min", "max", "decimals", "displayName", "noValue", "color", "thresholds", "mappings", "links"];
const CUSTOM = ["width", "cellOptions", "lineStyle", "fillOpacity"];
const option = (id, path, isCustom) => ({ id, path, isCustom, name: id, process: identity, shouldApply: () => true });
grafana.standardFieldConfigEditorRegistry.setInit(() => [
  ...OPTIONS.map((id) => option(id, id, false)),
  ...CUSTOM.map((id) => option(`custom.${id}`, id, true)),
]);
const KNOWN = new Set([...OPTIONS, ...CUSTOM.map((id) => `custom.${id}`)]);

const theme = grafana.createTheme({ colors: { mode: "dark" } });

/** A table of an instant query, as Grafana's data source for Prometheus makes it: Time, labels, Value. */
function table(refId, series, queries) {
  const labels = [...new Set(series.flatMap((one) => Object.keys(one.metric)))].sort();
  const value = queries > 1 ? `Value #${refId}` : "Value";
  return grafana.toDataFrame({
    refId,
    fields: [
      { name: "Time", type: "time", values: series.map((one) => one.value[0] * 1000) },
      ...labels.map((name) => ({ name, type: "string", values: series.map((one) => one.metric[name] ?? "") })),
      { name: value, type: "number", values: series.map((one) => Number(one.value[1])) },
    ],
  });
}

/** A frame for each series, named by the query's legend. */
function graphs(target, series) {
  return series.map((one) => {
    const legend = target.legendFormat ?? "";
    const displayNameFromDS = legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => one.metric[label] ?? "");
    const points = one.values ?? [one.value];
    return grafana.toDataFrame({
      refId: target.refId,
      fields: [
        { name: "Time", type: "time", values: points.map((point) => point[0] * 1000), config: {} },
        {
          name: "Value",
          type: "number",
          labels: one.metric,
          values: points.map((point) => Number(point[1])),
          config: displayNameFromDS ? { displayNameFromDS } : {},
        },
      ],
    });
  });
}

async function shown({ panel, answers }) {
  const frames = panel.targets.flatMap((target) => {
    const series = answers[target.refId];
    return target.format === "table" ? [table(target.refId, series, panel.targets.length)] : graphs(target, series);
  });
  const replaceVariables = (text) => text;
  const context = { interpolate: replaceVariables };
  for (const each of panel.transformations ?? []) {
    if (!transformers.has(each.id)) throw new Error(`${panel.title}: unknown transformation ${each.id}`);
  }
  const transformed = await firstValueFrom(grafana.transformDataFrame(panel.transformations ?? [], frames, context));
  const { overrides } = panel.fieldConfig;
  for (const { id } of overrides.flatMap((each) => each.properties)) {
    if (!KNOWN.has(id)) throw new Error(`${panel.title}: unknown option ${id}`);
  }
  const dressed = grafana.applyFieldOverrides({
    data: transformed, fieldConfig: panel.fieldConfig, replaceVariables, theme, timeZone: "utc",
  });
  const matchers = overrides.map(({ matcher }) => grafana.fieldMatchers.get(matcher.id).get(matcher.options));
  return dressed.flatMap((frame) =>
    frame.fields
      .filter((field) => panel.type === "table" || field.type !== "time")
      .map((field) => ({
        name: grafana.getFieldDisplayName(field, frame, dressed),
        type: field.type,
        unit: field.config.unit ?? "",
        width: field.config.custom?.width ?? null,
        cells: field.config.custom?.cellOptions ?? null,
        color: grafana.getFieldSeriesColor(field, theme).color ?? null,
        matched: matchers.flatMap((matches, number) => (matches(field, frame, dressed) ? [number] : [])),
        values: Array.from(field.values, (value) => {
          const found = field.display(value);
          return { text: grafana.formattedValueToString(found), color: found.color ?? null };
        }),
      })),
  );
}

(async () => {
  let text = "";
  for await (const chunk of process.stdin) text += chunk;
  const found = [];
  for (const one of JSON.parse(text)) found.push(await shown(one));
  const names = [...new Set(["red", "orange", "green", "yellow", "blue"])];
  const colors = Object.fromEntries(names.map((name) => [name, theme.visualization.getColorByName(name)]));
  process.stdout.write(JSON.stringify({ panels: found, colors }));
})().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
