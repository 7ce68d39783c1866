// What the page says, in English and Chinese; a recipe's fields and a model's names stay as they are.

import { sayIn } from "./chat/speech.js"; // the chat's page, which the board serves too

export { speak, spoken } from "./chat/speech.js";

const WORDS = {
  en: {
    other: "中文", otherLabel: "中文", board: "board", loading: "Reading the runs …", runs: "Runs", find: "Filter by name",
    none: "No run is in this folder yet. This page shows one as soon as it begins.", noneFits: "No run has that in its name.",
    run: "run", status: "status", step: "step", loss: "loss", metric: "metric", floor: "floor", left: "time left", time: "time", size: "size", when: "last written",
    took: "took {time}", about: "about {time} left", with: "{learning} with {tuning}, from {model}", back: "All runs", utc: "Last written {when} UTC.",
    statuses: { completed: "completed", running: "running", interrupted: "interrupted", stopped: "stopped", failed: "failed", unknown: "unknown" },
    meant: { completed: "it ended by a rule of its recipe", running: "it goes on", interrupted: "it says that it runs, and no process does: it was killed; the same command goes on",
      stopped: "a signal stopped it; the same command goes on", failed: "it ended with an error", unknown: "its summary is not there yet" },
    training: "training", validation: "validation", learning_rate: "learning rate", grad_norm: "norm of the gradient", tokens_per_second: "tokens a second",
    curve: "{name} {first} at step {start}, {last} at step {end}, lowest {low}, highest {high}", floorAt: "floor: {what} ({value})", jumped: "the loss jumped",
    curves: "Curves", noCurves: "No line of its figures is there yet.", thinned: "There are many lines: each point is the mean of about {n}.", broken: "{n} lines can't be read.",
    learned: "What it learned", figure: "figure", before: "before", after: "after", noFigures: "It was measured on no held-out rows yet.",
    events: "Events", noEvents: "It wasn't resumed, no step was skipped, and the loss never jumped.", what: "what", more: "more",
    happened: { resumed: "resumed", spike: "the loss jumped", skipped: "step skipped", best: "best evaluation" },
    spikeMore: "to {loss}, {deviations} standard deviations above its usual", bad: "{n} rows couldn't be read or learned from",
    samples: "What the model says", noSamples: "No row is shown: the run writes no samples.jsonl (training.figures: false), or hasn't yet.", afterStep: "after step {step}", beforeFirst: "before the first step",
    earlier: "Earlier evaluations: {n}", rows: "Rows as the model sees them", showRows: "Show rows", nextRows: "Next rows", firstRows: "First rows",
    rowsHint: "Draws rows of the training data as the run does. It takes some seconds; nothing is trained or changed.",
    drawing: "Drawing rows … this takes some seconds", rowN: "row {n}", rowOf: "{n} rows", sides: { reads: "reads", writes: "writes" },
    kinds: { kept: "as in the text", masked: "hidden; behind the arrow, what is to be found", replaced: "another token; behind the arrow, the right one", target: "has to be predicted", padding: "fills the row up", document: "a document begins" },
    cost: "What it costs", costs: { wall_seconds: "time", tokens: "tokens", tokens_per_second: "tokens a second", data_wait: "of that time, waiting for data", parameters: "parameters",
      trainable_parameters: "of these, trained", peak_memory_bytes: "memory at its peak", peak_gpu_memory_bytes: "of the GPU", processes: "processes", strategy: "spread by", device: "device",
      precision: "precision", skipped_steps: "skipped steps", bad_rows: "rows left out" }, onDisk: "on disk", versions: "versions", noCost: "The run says this when it is over.",
    recipe: "Recipe", field: "field", value: "value", usual: "default", changed: "A star: it differs from its default.", others: "Fields as they always are: {n}", noRecipe: "Its recipe isn't there.",
    report: "Report", newTab: "(in a new tab)", chat: "Chat with this run", goChat: "Go to the chat", opening: "Opening the model … this takes some seconds", closeChat: "Let go of the model", opened: "The model is open.", closed: "The model was let go of.",
    whyNot: { model: "There is no model yet: it is there once the run has ended.", recipe: "Its recipe can't be checked by this version, or names code of somebody's own, which isn't run here.",
      learning: "What it learned writes no text: llmkit explain RUN TEXT shows what it would say." },
    predict: "Predict a text", ask: "Predict", asking: "The model is opened and asked … this takes some seconds", optional: "{name} (may be empty)", linesOf: "{name} (one a line)", saidIs: "The model says",
    away: "The board can't be reached. Is it still running? This page goes on by itself when it is.", refused: "The board says: {message}", moving: "step {step}, loss {loss}", movingLeft: ", {time} left",
  },
  zh: {
    other: "EN", otherLabel: "English", board: "看板", loading: "正在读取训练……", runs: "训练", find: "按名称筛选",
    none: "这个文件夹里还没有训练。一旦开始，这里就会显示。", noneFits: "没有名称匹配的训练。",
    run: "训练", status: "状态", step: "步", loss: "损失", metric: "指标", floor: "基线", left: "剩余时间", time: "时间", size: "大小", when: "最后写入",
    took: "用时 {time}", about: "约剩 {time}", with: "{learning}，调优方法 {tuning}，起点 {model}", back: "全部训练", utc: "最后写入：{when} UTC。",
    statuses: { completed: "已完成", running: "进行中", interrupted: "被中断", stopped: "已停止", failed: "失败", unknown: "未知" },
    meant: { completed: "按配方的规则结束", running: "正在继续", interrupted: "它说自己在运行，但没有进程：它被杀掉了；用同样的命令可以继续",
      stopped: "被信号停止；用同样的命令可以继续", failed: "因错误结束", unknown: "还没有 summary.json" },
    training: "训练", validation: "验证", learning_rate: "学习率", grad_norm: "梯度范数", tokens_per_second: "每秒 token 数",
    curve: "{name}：第 {start} 步 {first}，第 {end} 步 {last}，最低 {low}，最高 {high}", floorAt: "基线：{what}（{value}）", jumped: "损失突增",
    curves: "曲线", noCurves: "还没有任何数值。", thinned: "行数很多：每个点约为 {n} 行的平均值。", broken: "有 {n} 行无法读取。",
    learned: "学到了什么", figure: "数值", before: "之前", after: "之后", noFigures: "还没有在留出的行上测量过。",
    events: "事件", noEvents: "没有恢复过，没有跳过任何一步，损失也没有突增。", what: "事件", more: "详情",
    happened: { resumed: "恢复", spike: "损失突增", skipped: "跳过一步", best: "最好的一次评估" },
    spikeMore: "到 {loss}，比平常高 {deviations} 个标准差", bad: "有 {n} 行无法读取或学习",
    samples: "模型怎么说", noSamples: "没有样例：这次训练不写 samples.jsonl（training.figures: false），或者还没写。", afterStep: "第 {step} 步之后", beforeFirst: "第一步之前",
    earlier: "更早的评估：{n} 次", rows: "模型看到的行", showRows: "显示行", nextRows: "下几行", firstRows: "回到开头",
    rowsHint: "像训练时一样抽取训练数据的行，需要几秒；不训练，也不改变任何东西。",
    drawing: "正在抽取行……需要几秒", rowN: "第 {n} 行", rowOf: "共 {n} 行", sides: { reads: "读入", writes: "写出" },
    kinds: { kept: "与原文相同", masked: "被遮住；箭头后是要找的词", replaced: "换成了别的 token；箭头后是正确的", target: "需要预测", padding: "填充", document: "一个文档开始" },
    cost: "代价", costs: { wall_seconds: "时间", tokens: "token 数", tokens_per_second: "每秒 token 数", data_wait: "其中等待数据", parameters: "参数",
      trainable_parameters: "其中参与训练", peak_memory_bytes: "内存峰值", peak_gpu_memory_bytes: "GPU 内存峰值", processes: "进程数", strategy: "分布方式", device: "设备",
      precision: "精度", skipped_steps: "跳过的步数", bad_rows: "略去的行" }, onDisk: "占用磁盘", versions: "版本", noCost: "训练结束时会写出。",
    recipe: "配方", field: "字段", value: "值", usual: "默认值", changed: "星号：与默认值不同。", others: "保持默认的字段：{n} 个", noRecipe: "没有配方文件。",
    report: "报告", newTab: "（在新标签页中）", chat: "与这次训练的模型对话", goChat: "打开对话", opening: "正在打开模型……需要几秒", closeChat: "释放模型", opened: "模型已打开。", closed: "模型已释放。",
    whyNot: { model: "还没有模型：训练结束后才有。", recipe: "这个版本无法检查它的配方，或者配方指定了别人的代码，这里不会运行。",
      learning: "它学的内容不会写文本：用 llmkit explain RUN TEXT 可以看它会说什么。" },
    predict: "预测一段文本", ask: "预测", asking: "正在打开并询问模型……需要几秒", optional: "{name}（可以为空）", linesOf: "{name}（每行一个）", saidIs: "模型说",
    away: "连接不上看板。它还在运行吗？恢复后本页会自动继续。", refused: "看板说：{message}", moving: "第 {step} 步，损失 {loss}", movingLeft: "，剩余 {time}",
  },
};

// say("whyNot.model"), say("rowN", {n: 3}) -> the sentence, its {blanks} filled in; "" for a key that isn't there.
export function say(key, blanks = {}) {
  return sayIn(WORDS, key, blanks) ?? "";
}
