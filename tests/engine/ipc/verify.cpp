// Runs the official FlatBuffers verifier over files: `verify frame|detections|sentry FILE...`; a line "1 <fields>" or "0" for each.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "detections_generated.h"
#include "frame_generated.h"
#include "sentry_generated.h"

using namespace detr_sentry;

static void print(const Frame *m) {
  std::printf("1 %s %llu %u %u %s %u\n", m->camera_id()->c_str(), (unsigned long long)m->frame_number(), m->width(),
              m->height(), EnumNamePixelFormat(m->pixel_format()), m->data()->size());
}

static void print(const Detections *m) {
  float confidences = 0;
  for (const Detection *row : *m->detections()) confidences += row->confidence();
  std::printf("1 %s %llu %s %s %u %.1f\n", m->camera_id()->c_str(), (unsigned long long)m->frame_number(),
              m->provider()->c_str(), EnumNameOutcome(m->outcome()), m->detections()->size(), confidences);
}

static void print(const Sentry *m) {
  std::printf("1 %s %s %s %.2f %u [%s]\n", m->camera_id()->c_str(), EnumNameState(m->state()), EnumNameMode(m->mode()),
              m->capture_fps(), m->count(), m->event_id()->c_str());
}

template <typename T>
static void check(const std::vector<uint8_t> &bytes, bool (*verify)(flatbuffers::Verifier &)) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  if (verify(verifier)) {
    print(flatbuffers::GetRoot<T>(bytes.data()));
  } else {
    std::puts("0");
  }
}

int main(int argc, char **argv) {
  for (int i = 2; i < argc; i++) {
    std::ifstream file(argv[i], std::ios::binary);
    std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!std::strcmp(argv[1], "frame")) check<Frame>(bytes, VerifyFrameBuffer);
    if (!std::strcmp(argv[1], "detections")) check<Detections>(bytes, VerifyDetectionsBuffer);
    if (!std::strcmp(argv[1], "sentry")) check<Sentry>(bytes, VerifySentryBuffer);
  }
}
