// The endpoints, out of /openapi.json: what each takes and gives. No library, nothing from elsewhere.
"use strict";

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function resolve(schema, all) {
  if (schema && schema.$ref) return resolve(all[schema.$ref.split("/").pop()], all);
  return schema || {};
}

function typeOf(schema, all) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map((s) => typeOf(s, all)).filter((t) => t !== "null").join(" or ");
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.format === "binary" || schema.contentMediaType) return "file";
  if (schema.type === "array") return `list of ${typeOf(schema.items, all) || "values"}`;
  return schema.type || "any";
}

function fieldTable(schema, all) {
  const table = element("table"), head = table.createTHead().insertRow();
  for (const name of ["field", "type", ""]) head.append(element("th", name));
  const body = table.createTBody(), found = resolve(schema, all), required = found.required || [];
  for (const [name, field] of Object.entries(found.properties || {})) {
    const row = body.insertRow(), cell = row.insertCell();
    cell.append(element("code", name));
    row.insertCell().textContent = typeOf(field, all) + (required.includes(name) ? ", required" : "");
    row.insertCell().textContent = field.description || "";
  }
  return table;
}

async function show() {
  const api = await (await fetch("/openapi.json")).json();
  const all = api.components?.schemas || {};
  document.getElementById("lead").textContent = `HTTP API, version ${api.info.version}`;
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      const section = element("section", undefined, "endpoint"), title = element("h2");
      title.append(element("span", verb.toUpperCase(), "verb"), element("code", path));
      section.append(title, element("p", operation.description || operation.summary));
      for (const [kind, content] of Object.entries(operation.requestBody?.content || {})) {
        const box = element("details"), summary = element("summary", `Body as ${kind}`);
        box.append(summary, fieldTable(content.schema, all));
        section.append(box);
      }
      for (const [code, response] of Object.entries(operation.responses || {})) {
        if (!code.startsWith("2")) continue;
        for (const [kind, content] of Object.entries(response.content || {})) {
          const box = element("details");
          box.append(element("summary", `Answer: ${kind}`));
          const found = resolve(content.schema, all);
          box.append(found.properties ? fieldTable(content.schema, all) : element("p", typeOf(content.schema, all)));
          section.append(box);
        }
      }
      document.getElementById("endpoints").append(section);
    }
  }
}
show();
