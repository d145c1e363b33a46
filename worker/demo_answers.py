"""What the demo model knows: questions about serving language models, other ways to ask them, and the answers."""

from typing import NamedTuple


class Topic(NamedTuple):
    """One answer, one to three whole sentences, and the ways to ask for it; ``question`` is the canonical one."""

    question: str
    paraphrases: tuple[str, ...]
    answer: str


TOPICS = (
    Topic(
        "What is a KV cache?",
        ("What is the KV cache for?", "Explain the KV cache.", "Tell me about the KV cache."),
        "The KV cache keeps the attention keys and values of every token seen so far, so that each new token is computed "
        "once instead of reading the whole text again. It grows with every token and usually decides how many requests "
        "fit on a card.",
    ),
    Topic(
        "What is prefill?",
        ("Explain prefill.", "What happens in the prefill phase?"),
        "Prefill is the first phase of a request: the model reads the whole prompt in parallel and fills the KV cache. "
        "It is limited by arithmetic, and it sets the time to first token.",
    ),
    Topic(
        "What is decode?",
        ("Explain decode.", "What happens in the decode phase?"),
        "Decode is the phase in which the model makes one token per step for each sequence. Every step reads all the "
        "weights, so decode is limited by memory bandwidth and gains from batching.",
    ),
    Topic(
        "What is TTFT?",
        ("What does TTFT mean?", "What is the time to first token?"),
        "TTFT is the time to first token: how long a caller waits from sending a request until the answer begins. It "
        "covers the queue, the prefill and the way back.",
    ),
    Topic(
        "What is TPOT?",
        ("What does TPOT mean?", "What is the time per output token?"),
        "TPOT is the time per output token: the mean time between tokens once an answer has begun. At 50 milliseconds a "
        "reader sees 20 tokens each second.",
    ),
    Topic(
        "What is inter-token latency?",
        ("What is ITL?", "Explain inter-token latency."),
        "Inter-token latency is the gap between one token and the next. Its mean is the TPOT, and its tail shows the "
        "stutter that a reader notices.",
    ),
    Topic(
        "What is continuous batching?",
        ("Explain continuous batching.", "How does continuous batching work?"),
        "Continuous batching forms the batch anew at every step: a sequence that ends leaves at once and a waiting one "
        "takes its place. The card stays busy however much the lengths of the answers differ.",
    ),
    Topic(
        "What is static batching?",
        ("Explain static batching.", "Why is static batching slow?"),
        "Static batching runs a fixed group of requests until the longest is done. The short ones wait for it, and "
        "their places on the card stand empty.",
    ),
    Topic(
        "What is paged attention?",
        ("Explain PagedAttention.", "How does paged attention work?"),
        "Paged attention stores the KV cache in small blocks of fixed size that need not lie side by side, as an "
        "operating system pages memory. Almost no memory is lost to gaps, and sequences can share blocks.",
    ),
    Topic(
        "What is prefix caching?",
        ("Explain prefix caching.", "How does prefix caching help?"),
        "Prefix caching keeps the KV blocks of prompts already seen. A request that begins with the same tokens, such "
        "as a shared system prompt, skips that part of its prefill.",
    ),
    Topic(
        "What is chunked prefill?",
        ("Explain chunked prefill.", "Why split a prefill into chunks?"),
        "Chunked prefill cuts a long prompt into pieces and runs them beside the decodes of other requests. Nobody's "
        "stream stops while a long prompt is read.",
    ),
    Topic(
        "What is tensor parallelism?",
        ("Explain tensor parallelism.", "How does tensor parallel serving work?"),
        "Tensor parallelism splits every weight matrix over several cards, which compute each layer together and "
        "exchange results twice per layer. It lowers latency and makes room for a larger model, if the link between "
        "the cards is fast.",
    ),
    Topic(
        "What is pipeline parallelism?",
        ("Explain pipeline parallelism.", "How does pipeline parallel serving work?"),
        "Pipeline parallelism gives each card a run of layers and passes activations along. It needs little bandwidth, "
        "but a single request is no faster than on one card.",
    ),
    Topic(
        "What is data parallelism in serving?",
        ("Explain data parallelism.", "Why run several replicas of a model?"),
        "Data parallelism runs a whole copy of the model on each card and spreads the requests over them. When a model "
        "fits on one card, this gives the most throughput.",
    ),
    Topic(
        "What is quantisation?",
        ("What is quantization?", "Explain quantisation.", "Why quantise a model?"),
        "Quantisation stores weights, and sometimes activations, in fewer bits. The model takes less memory and decodes "
        "faster, for a small loss of quality.",
    ),
    Topic(
        "What is INT4 quantisation?",
        ("Explain INT4.", "What does W4A16 mean?"),
        "INT4 stores each weight in four bits, with a scale for every small group, and computes in 16 bits. Weights "
        "shrink to about a third or a quarter, which speeds up decoding at small batches most.",
    ),
    Topic(
        "What is FP8 quantisation?",
        ("Explain FP8.", "What does FP8 give?"),
        "FP8 stores numbers as eight-bit floats, and recent cards multiply them at twice the rate of 16 bits. It halves "
        "the memory for weights, with very little loss of quality.",
    ),
    Topic(
        "What is AWQ?",
        ("Explain AWQ.", "How does AWQ quantise weights?"),
        "AWQ is activation-aware weight quantisation: it looks at the activations to find the channels that matter and "
        "scales them so that rounding to four bits hurts them least.",
    ),
    Topic(
        "What is GPTQ?",
        ("Explain GPTQ.", "How does GPTQ quantise weights?"),
        "GPTQ quantises a layer column by column and corrects the remaining weights for the error made so far. It needs "
        "only a small set of calibration texts and no training.",
    ),
    Topic(
        "What is speculative decoding?",
        ("Explain speculative decoding.", "How does speculative decoding work?"),
        "In speculative decoding a small, fast model drafts several tokens and the large model checks them in one step. "
        "What it accepts is as if it had written it alone, so quality is kept and latency falls.",
    ),
    Topic(
        "What is a deadline?",
        ("Why should a request carry a deadline?", "What are deadlines for?"),
        "A deadline is the moment after which nobody needs the answer. A server that knows it can refuse early what it "
        "cannot finish and stop work that has become useless.",
    ),
    Topic(
        "What happens when a deadline passes?",
        ("What does Sluice do when the deadline passes?", "What if a request is too late?"),
        "Sluice stops the request within one engine step, frees its memory and returns DEADLINE_EXCEEDED with an account "
        "of where the time went. A request still in the queue never reaches the engine.",
    ),
    Topic(
        "What is backpressure?",
        ("Explain backpressure.", "Why does a server need backpressure?"),
        "Backpressure tells a sender to slow down when the receiver is full. Without it queues grow without bound, and "
        "every answer comes too late.",
    ),
    Topic(
        "What is admission control?",
        ("Explain admission control.", "Why refuse a request at once?"),
        "Admission control decides on arrival whether a request can be served in time. An early, honest refusal lets "
        "the caller try elsewhere and protects the requests already admitted.",
    ),
    Topic(
        "What is load shedding?",
        ("Explain load shedding.", "What does it mean to shed load?"),
        "Load shedding drops some requests so that the others still meet their targets. A good server sheds what is "
        "worth least and says so at once.",
    ),
    Topic(
        "What is goodput?",
        ("Explain goodput.", "How does goodput differ from throughput?"),
        "Goodput counts only the requests that finish within their latency targets. A server may have high throughput "
        "and no goodput at all, when every answer is late.",
    ),
    Topic(
        "What is throughput?",
        ("Explain throughput.", "How is throughput measured?"),
        "Throughput is the number of tokens or requests that a server completes per second. It says nothing about how "
        "long each caller waits.",
    ),
    Topic(
        "What is preemption?",
        ("Explain preemption.", "When does an engine preempt a request?"),
        "Preemption takes the KV cache from a running request when memory runs out. The request goes back to the queue "
        "and its cache is computed again later.",
    ),
    Topic(
        "Why stream tokens?",
        ("Why stream an answer?", "What is token streaming good for?"),
        "Streaming shows each token as soon as it is made, so a reader can begin after the first one. It also lets a "
        "caller cancel early and save the rest of the work.",
    ),
    Topic(
        "What is gRPC?",
        ("Explain gRPC.", "Tell me about gRPC."),
        "gRPC is a framework for remote calls over HTTP/2, with messages defined in Protocol Buffers. It brings typed "
        "clients for many languages, streaming, deadlines and cancellation.",
    ),
    Topic(
        "What is gRPC streaming?",
        ("How does gRPC streaming work?", "Explain server streaming."),
        "In a streaming call one request is answered by many messages over the same HTTP/2 stream. Each token travels "
        "as it is made, and the final status says how the call ended.",
    ),
    Topic(
        "How do I cancel a request?",
        ("How does cancellation work?", "What happens when a client disconnects?"),
        "Cancel the RPC itself: Sluice tells the engine at once, and the KV blocks are free within one step. A client "
        "that disconnects has the same effect.",
    ),
    Topic(
        "Why Sluice?",
        ("What is Sluice good for?", "Why should I use Sluice?"),
        "Sluice puts a scheduler in front of vLLM that knows deadlines, priorities and what each worker can hold. "
        "Important answers come in time, hopeless ones are refused at once, and nothing waits for ever.",
    ),
    Topic(
        "What is Sluice?",
        ("Explain Sluice.", "Tell me about Sluice."),
        "Sluice serves language models over gRPC. A scheduler decides who runs, when and where, and workers with vLLM "
        "inside make the tokens.",
    ),
    Topic(
        "What does the scheduler do?",
        ("What is the scheduler for?", "Explain the scheduler."),
        "The scheduler holds the queue and decides which request runs next and on which worker. It gives a worker only "
        "what it can start now, so that a late but urgent request can still go first.",
    ),
    Topic(
        "What does a worker do?",
        ("What is a worker for?", "Explain the worker."),
        "A worker hosts one engine on one or more cards. It takes requests from the scheduler over a single stream and "
        "sends back the tokens of every step.",
    ),
    Topic(
        "What is vLLM?",
        ("Explain vLLM.", "Tell me about vLLM."),
        "vLLM is an open-source engine for running language models, known for paged attention and continuous batching. "
        "Sluice uses it to do the arithmetic.",
    ),
    Topic(
        "How do priorities work?",
        ("What do HIGH, NORMAL and LOW mean?", "Explain request priorities."),
        "A request is HIGH, NORMAL or LOW, as it says itself or by the length of its prompt. Higher classes start "
        "first, and waiting raises a request so that none starves.",
    ),
    Topic(
        "What is starvation?",
        ("Explain starvation.", "How is starvation avoided?"),
        "Starvation is when a request waits for ever because more important ones keep arriving. Aging prevents it: the "
        "longer a request waits, the higher it ranks.",
    ),
    Topic(
        "What is head-of-line blocking?",
        ("Explain head-of-line blocking.", "Why do long prompts block short ones?"),
        "Head-of-line blocking is when one slow request at the front holds up everyone behind it. Chunked prefill and a "
        "queue that reorders are the usual cures.",
    ),
    Topic(
        "What is a token?",
        ("Explain tokens.", "How long is a token?"),
        "A token is the unit a model reads and writes: a word, a piece of one, or a single byte. In English it is "
        "roughly four characters.",
    ),
    Topic(
        "What is a tokenizer?",
        ("Explain the tokenizer.", "What does byte-level BPE mean?"),
        "A tokenizer turns text into token ids and back. Byte-level BPE starts from bytes and merges frequent pairs, so "
        "it can write any text at all.",
    ),
    Topic(
        "Can a token end inside a character?",
        ("Can a token hold half a character?", "Why does a stream hold text back?"),
        "Yes: a byte-level token may end inside a character such as é, 字 or 🙂. A careful server holds the text back "
        "until the character is whole.",
    ),
    Topic(
        "What is a chat template?",
        ("Explain chat templates.", "What is ChatML?"),
        "A chat template writes a list of messages as the one text that the model was trained on, with marks for each "
        "role. The wrong template makes a good model look bad.",
    ),
    Topic(
        "What is temperature?",
        ("Explain temperature.", "What does the temperature setting do?"),
        "Temperature divides the logits before sampling. Below one it favours likely tokens, above one it spreads the "
        "choice, and zero always takes the likeliest.",
    ),
    Topic(
        "What is top-p sampling?",
        ("Explain top_p.", "What is nucleus sampling?"),
        "Top-p sampling draws only from the smallest set of tokens whose probabilities add up to p. It cuts off the "
        "unlikely tail and adapts to how sure the model is.",
    ),
    Topic(
        "What is top-k sampling?",
        ("Explain top_k.", "What does top_k do?"),
        "Top-k sampling draws only from the k likeliest tokens. It is simple, but unlike top-p it ignores how sure the "
        "model is.",
    ),
    Topic(
        "What is a repetition penalty?",
        ("Explain the repetition penalty.", "How do I stop a model repeating itself?"),
        "A repetition penalty lowers the logits of tokens that already occur in the prompt or the answer. A value of "
        "1.1 discourages loops, and much more spoils the text.",
    ),
    Topic(
        "What is a stop string?",
        ("Explain stop strings.", "How do I make a model stop at a word?"),
        "A stop string ends an answer as soon as it appears in the text. It may span several tokens, so a server must "
        "watch the text and not the ids.",
    ),
    Topic(
        "What is structured output?",
        ("Explain structured output.", "How do I get valid JSON?"),
        "Structured output allows only tokens that keep the answer valid under a JSON schema, a regular expression or a "
        "grammar. The form is guaranteed, the truth of the content is not.",
    ),
    Topic(
        "What is a context window?",
        ("Explain the context window.", "What is the maximum context length?"),
        "The context window is the number of tokens, prompt and answer together, that a model can attend to. Longer "
        "contexts cost KV memory for every token.",
    ),
    Topic(
        "What is FlashAttention?",
        ("Explain FlashAttention.", "How does FlashAttention work?"),
        "FlashAttention computes exact attention in tiles that stay in fast on-chip memory. It never writes the full "
        "matrix of scores, which saves both time and memory.",
    ),
    Topic(
        "What is grouped-query attention?",
        ("What is GQA?", "Explain grouped-query attention."),
        "In grouped-query attention several query heads share one head of keys and values. The KV cache shrinks by the "
        "size of the group.",
    ),
    Topic(
        "Which model do I serve in production?",
        ("How do I serve a real model?", "How do I change the model?"),
        "Set MODEL to a folder or a hub name such as Qwen/Qwen2.5-7B-Instruct. The demo model is only there to show "
        "that everything works.",
    ),
    Topic(
        "Who are you?",
        (
            "Hello!",
            "Hi",
            "What are you?",
            "What can you do?",
            "Tell me a joke.",
            "Write a poem about the sea.",
            "What is the capital of France?",
            "How is the weather today?",
            "Translate this text into German.",
            "Write a function that sorts a list.",
            "Once upon a time",
            "Summarise the following text.",
            "Help me.",
        ),
        "I am the demo model of Sluice, with only a few million parameters. Ask me about serving language models, for "
        "example what a KV cache is, and serve a real model for anything else.",
    ),
)
