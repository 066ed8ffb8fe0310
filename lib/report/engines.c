#include "report/engines.h"

const struct engines_name engines_names[REPORT_ENGINES] = {{"vllm", "vLLM"},
                                                           {"sglang", "SGLang"},
                                                           {"trtllm", "TensorRT-LLM"},
                                                           {"llamacpp", "llama.cpp"},
                                                           {"transformers", "transformers"}};

int engines_load(struct engines *e, const char *conf_dir, struct aq_err *err)
{
    *e = (struct engines){0};
    for (int i = 0; i < REPORT_ENGINES && conf_dir; i++) {
        e->rules[i] = engine_load(conf_dir, engines_names[i].name, err);
        if (!e->rules[i])
            return -1;
    }
    return 0;
}

void engines_release(struct engines *e)
{
    for (int i = 0; i < REPORT_ENGINES; i++)
        engine_free(e->rules[i]);
    *e = (struct engines){0};
}
